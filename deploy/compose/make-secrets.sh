#!/bin/sh
# make-secrets.sh FOLDER
# Writes the passwords of the servers, and the URLs that hold them, into FOLDER: one subfolder for each container
# that reads some. A password that is not in the environment is generated once and kept.
set -eu
secrets=$1
umask 022 # a folder is mounted into one container only, whose user is not known here

password() { # NAME GIVEN
    file="$secrets/passwords/$1"
    if [ -n "$2" ]; then
        case $2 in *[!A-Za-z0-9._~-]*)
            echo "the password of $1 may hold letters, digits and . _ ~ - only: change it in .env" >&2
            exit 1
            ;;
        esac
        printf %s "$2" >"$file"
    elif [ ! -s "$file" ]; then
        head -c 24 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$file.new"
        mv "$file.new" "$file"
    fi
    cat "$file"
}

secret() { # FILE TEXT
    mkdir -p "$secrets/$(dirname "$1")"
    printf '%s\n' "$2" >"$secrets/$1.new"
    mv "$secrets/$1.new" "$secrets/$1"
}

mkdir -p "$secrets"/passwords
chmod 700 "$secrets"/passwords
db=$(password db "${POSTGRES_PASSWORD:-}")
rabbitmq=$(password rabbitmq "${RABBITMQ_PASSWORD:-}")
redis=$(password redis "${REDIS_PASSWORD:-}")

secret db/password "$db"
secret rabbitmq/password "$rabbitmq"
secret redis/password "$redis"
secret redis/redis.conf "requirepass $redis"
for service in migrations operations api_service worker_service; do
    secret "$service/askmesh_database_url" "postgresql://askmesh:$db@db:5432/askmesh"
done
for service in api_service worker_service; do
    secret "$service/askmesh_redis_url" "redis://:$redis@redis:6379/0"
    secret "$service/askmesh_broker_url" "amqp://askmesh:$rabbitmq@rabbitmq:5672//"
done
