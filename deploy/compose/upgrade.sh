#!/bin/sh
# Replaces the running replicas by as many of the images of IMAGE_TAG, without downtime: migrates, starts the new
# replicas beside the old ones, and stops the old ones gracefully. Run it in the project's root, with the images built
# or pulled. Old and new run together for a while, which migrations allow from one release to the next.
set -eu

docker compose run --rm --no-deps migrations
for service in llm_service worker_service api_service; do
    old=$(docker compose ps --quiet "$service")
    if [ -z "$old" ]; then
        echo "$service: no replica runs, so none is replaced; docker compose up --detach starts one" >&2
        continue
    fi
    count=$(printf '%s\n' "$old" | wc -l)
    docker compose up --detach --no-deps --no-recreate --wait --wait-timeout 180 \
        --scale "$service=$((count * 2))" "$service"
    # One after another, so that callers always find more running replicas than just stopped ones. Each
    # finishes what it holds, for at most ASKMESH_DRAIN_SECONDS.
    for container in $old; do
        docker stop --time 40 "$container" >/dev/null
        docker rm "$container" >/dev/null
    done
    echo "$service: $((count)) replicas of ${IMAGE_TAG:-dev}"
done
