"""The Lua scripts of the ledger. Each makes all its checks before its first write: Lua doesn't roll back."""

import hashlib

from shared.clock import LAST_TIME

# Appends events to the log.
# KEYS  1 the log  2 the subject's index of positions  3 the idempotency record  4 the credential
#       5 the guard's index of positions, if there is a guard
# ARGV  1 the expected version  2 the idempotency record to write, or ''  3 its lifetime in s
#       4 a record that was rejected and may be replaced, or 'none'  5 the credential, or ''
#       6… the events' bodies  and last, if there is a guard, its expected version
# Returns {'repeated', record} | {'conflict', version} | {'guarded', version} | {'appended', positions, time},
# positions as one string of integers with blanks between. A record of another type is returned as ''.
# The time is never earlier than the event before it, unless that one's time can't be printed.
APPEND = """
if ARGV[2] ~= '' then
  local record = redis.pcall('GET', KEYS[3])
  if type(record) == 'table' then record = '' end
  if record and record ~= ARGV[4] then return {'repeated', record} end
end
local version = redis.call('LLEN', KEYS[2])
if version ~= tonumber(ARGV[1]) then return {'conflict', version} end
local last_event = #ARGV
if KEYS[5] then
  local guarded = redis.call('LLEN', KEYS[5])
  if guarded ~= tonumber(ARGV[last_event]) then return {'guarded', guarded} end
  last_event = last_event - 1
end
local clock = redis.call('TIME')
local at = clock[1] * 1000 + math.floor(clock[2] / 1000)
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if last then at = math.max(at, math.min(tonumber(last[2][2]), LAST_TIME)) end

local positions = {}
for i = 6, last_event do
  local id = redis.call('XADD', KEYS[1], '0-*', 'at', at, 'event', ARGV[i])
  local position = string.sub(id, 3)
  redis.call('RPUSH', KEYS[2], position)
  positions[#positions + 1] = position
end
positions = table.concat(positions, ' ')
if ARGV[2] ~= '' then redis.call('SET', KEYS[3], ARGV[2], 'EX', ARGV[3]) end
if ARGV[5] ~= '' then redis.call('SET', KEYS[4], ARGV[5]) end
return {'appended', positions, at}
""".replace("LAST_TIME", str(LAST_TIME))

# The same for a store that is out of memory.
APPEND_FROM_RESERVE = "#!lua flags=allow-oom" + APPEND
APPEND_SHA = hashlib.sha1(APPEND.encode(), usedforsecurity=False).hexdigest()

# Reads a page of one subject's events by its index of positions.
# KEYS  1 the log  2 the subject's index of positions
# ARGV  1 the index of the first event  2 that of the last; not computed here, where a large one loses digits
HISTORY = """
local entries = {}
for _, position in ipairs(redis.call('LRANGE', KEYS[2], ARGV[1], ARGV[2])) do
  entries[#entries + 1] = redis.call('XRANGE', KEYS[1], '0-' .. position, '0-' .. position)[1]
end
return entries
"""

# Appends events that already have positions and times. Only imports do that.
# KEYS  1 the log  2… the index of each event's subject, or the placeholder key
# ARGV  1 the position that the log must end at  2 the placeholder key  3… each event's time and body
# Returns the ID that the log ends at instead, or nothing once the events are written.
FILL = """
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local head = last and last[1] or '0-0'
if head ~= '0-' .. ARGV[1] then return head end
for i = 2, #KEYS do
  local position = string.format('%.0f', ARGV[1] + i - 1)
  redis.call('XADD', KEYS[1], '0-' .. position, 'at', ARGV[2 * i - 1], 'event', ARGV[2 * i])
  if KEYS[i] ~= ARGV[2] then redis.call('RPUSH', KEYS[i], position) end
end
return false
"""
