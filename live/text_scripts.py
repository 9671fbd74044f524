"""The Lua that keeps the text of answers in Redis, each script one step: live.answer_stream says what for.

A key of another type, or a hash whose fields are no numbers, counts as missing and is written anew: one such key must
not stop the other texts of its call.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha1
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

ENDED_SECONDS: Final = 3_600
"""For readers who are late; after that they read the final answer in PostgreSQL."""
# Longer than a worker goes on with what PostgreSQL has not confirmed to be its own.
_BURIED_SECONDS: Final = 60
# No token is as high as this: whoever still writes to an answer that has ended is fenced.
_ENDED_TOKEN: Final = 2**53


class LuaScript:
    """A Lua script, sent once and then named by its digest."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._digest = sha1(source.encode(), usedforsecurity=False).hexdigest()

    async def run(self, redis: Redis, keys: Sequence[str], arguments: Iterable[object]) -> Any:
        """Run it. Raises RedisError or OSError."""
        call: list[Any] = [len(keys), *keys, *arguments]
        try:
            return await redis.evalsha(self._digest, *call)
        except NoScriptError:
            return await redis.eval(self._source, *call)


# A hash whose string is gone or shorter, as eviction or an old snapshot leaves it, counts as missing.
# A text has no age while it is written, so that no ``volatile-*`` policy evicts it.
_HELPERS: Final = """
local function ask(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then
    if string.find(reply.err, 'WRONGTYPE', 1, true) then return nil end
    error(reply.err)
  end
  return reply
end
local function token_of(meta)
  local held = ask('HMGET', meta, 'token', 'finish')
  if not held then return nil, nil end
  return tonumber(held[1] or ''), held[2]
end
local function stored(meta, text)
  local held = ask('HMGET', meta, 'token', 'epoch', 'length', 'usage', 'finish', 'writer')
  if not held then return nil end
  local token, epoch, length = tonumber(held[1] or ''), tonumber(held[2] or ''), tonumber(held[3] or '')
  if not (token and epoch and length) or length ~= ask('STRLEN', text) then return nil end
  return {token = token, epoch = epoch, length = length, usage = held[4] or '{}', finish = held[5],
          writer = held[6] or ''}
end
local function put(meta, text, token, epoch, whole, usage, finish, writer)
  redis.call('SET', text, whole)
  redis.call('DEL', meta)
  redis.call('HSET', meta, 'token', token, 'epoch', epoch, 'length', #whole, 'usage', usage)
  if finish ~= '' then redis.call('HSET', meta, 'finish', finish) end
  if writer ~= '' then redis.call('HSET', meta, 'writer', writer) end
end
"""
# KEYS: hash and string. ARGV: token, epoch, whether to create.
OPEN: Final = LuaScript(f"""{_HELPERS}
local meta, text, token, epoch, create = KEYS[1], KEYS[2], tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local former = token_of(meta)
if former and former > token then return 'fenced' end
local held = stored(meta, text)
if held and held.epoch == epoch then
  redis.call('HSET', meta, 'token', ARGV[1])
  return {{redis.call('GET', text), held.usage, held.finish or '', held.writer}}
end
if create == '' and not (held and held.epoch < epoch) then return 'missing' end
put(meta, text, ARGV[1], ARGV[2], '', '{{}}', '', '')
return {{'', '{{}}', '', ''}}
""")
# For each text KEYS: hash, string, channel. ARGV: token, epoch, text, usage, finish, confirmed, writer.
PUT: Final = LuaScript(f"""{_HELPERS}
local replies = {{}}
for i = 1, #KEYS / 3 do
  local meta, text, channel = KEYS[3 * i - 2], KEYS[3 * i - 1], KEYS[3 * i]
  local token, epoch, whole, usage, finish, confirmed, writer = unpack(ARGV, 7 * i - 6, 7 * i)
  local held, ended = token_of(meta)
  if ended == 'buried' or (confirmed == '' and held and held > tonumber(token)) then replies[i] = -1
  else
    put(meta, text, token, epoch, whole, usage, finish, writer)
    replies[i] = redis.call('PUBLISH', channel, epoch .. ':0:' .. whole)
  end
end
return replies
""")
# For each text KEYS: hash, string, channel. ARGV: token, offset, text, usage, finish, writer.
APPEND: Final = LuaScript(f"""{_HELPERS}
local replies = {{}}
for i = 1, #KEYS / 3 do
  local meta, text, channel = KEYS[3 * i - 2], KEYS[3 * i - 1], KEYS[3 * i]
  local token, offset, chunk, usage, finish, writer = unpack(ARGV, 6 * i - 5, 6 * i)
  local held = stored(meta, text)
  if held and held.token > tonumber(token) then replies[i] = -1
  elseif not held or held.token < tonumber(token) or held.length ~= tonumber(offset) then replies[i] = -2
  else
    redis.call('APPEND', text, chunk)
    redis.call('HSET', meta, 'length', held.length + #chunk, 'usage', usage)
    if finish ~= '' then redis.call('HSET', meta, 'finish', finish) end
    if writer ~= '' then redis.call('HSET', meta, 'writer', writer) end
    replies[i] = redis.call('PUBLISH', channel, held.epoch .. ':' .. offset .. ':' .. chunk)
  end
end
return replies
""")
# KEYS: the channel of ends; for each text hash and string. ARGV: what to say there.
CLOSE: Final = LuaScript(f"""{_HELPERS}
for i = 2, #KEYS, 2 do
  if token_of(KEYS[i]) then
    redis.call('HSET', KEYS[i], 'token', '{_ENDED_TOKEN}', 'finish', 'closed')
    redis.call('EXPIRE', KEYS[i], {ENDED_SECONDS})
    redis.call('EXPIRE', KEYS[i + 1], {ENDED_SECONDS})
  else redis.call('DEL', KEYS[i], KEYS[i + 1]) end
end
redis.call('PUBLISH', KEYS[1], ARGV[1])
""")
BURY: Final = LuaScript(f"""
for i = 2, #KEYS, 2 do
  redis.call('DEL', KEYS[i], KEYS[i + 1])
  redis.call('HSET', KEYS[i], 'token', '{_ENDED_TOKEN}', 'epoch', 0, 'length', 0, 'usage', '{{}}', 'finish', 'buried')
  redis.call('EXPIRE', KEYS[i], {_BURIED_SECONDS})
end
redis.call('PUBLISH', KEYS[1], ARGV[1])
""")
# For each text KEYS: hash and string. ARGV: epoch and offset of the cursor.
READ: Final = LuaScript(f"""{_HELPERS}
local replies = {{}}
for i = 1, #KEYS / 2 do
  local meta, text, offset = KEYS[2 * i - 1], KEYS[2 * i], tonumber(ARGV[2 * i])
  local held = stored(meta, text)
  if held then
    if held.epoch ~= tonumber(ARGV[2 * i - 1]) then offset = 0 end
    replies[i] = {{held.epoch, offset, redis.call('GETRANGE', text, offset, -1), held.length, held.finish and 1 or 0}}
  else replies[i] = false end
end
return replies
""")
