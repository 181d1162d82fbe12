#!lua name=workflow_store_valkey_1

-- The records of runs, and the indexes that follow from them.
--
-- <prefix>run:<id>         hash   the head, with the payloads
-- <prefix>log:<id>         list   events: "<bytes of payload> <index> <JSON>"
-- <prefix>inbox:<id>       hash   number -> entry: "<bytes of payload> <number> <JSON>"
-- <prefix>untaken:<id>     zset   numbers of the entries that no driver has taken
-- <prefix>known:<id>       hash   "<kind>:<delivery id>" -> number of the entry, or the decision of an approval
-- <prefix>timers:<id>      zset   timer ids by time
-- <prefix>runs             zset   "<16 digits of creation><run id>", all of one score: ordered by text
-- <prefix>ended            zset   terminal runs by the time of their end
-- <prefix>lane:<status>:.. zset   runs of one status, priority, queue and workflow version, by the time from which
--                                 they can be claimed; members of one time are ordered by their bytes
-- <prefix>lanes:<status>   set    the lanes that hold a run
-- <prefix>format           text   the number of the format of all this
-- <prefix>notices          the channel of notices

local SILENT_CLAIMS_PER_CRASH = 4
local NOTICE_HORIZON_MS = 60000
local CHUNK = 100

local HEAD_TEXTS = {
  'run_id', 'workflow_id', 'workflow_version', 'status', 'queue', 'lease_owner', 'lease_token',
  'operation', 'answer', 'schedule_id',
}
local HEAD_NUMBERS = {
  'priority', 'created_at_ms', 'finished_at_ms', 'due_at_ms', 'next_index', 'inbox_seq', 'cancel_requested',
  'cancel_seq', 'crashes', 'silent', 'heard', 'lease_number', 'lease_expires_at_ms', 'scheduled_at_ms',
}
local TERMINAL = {finished = true, errored = true, aborted = true, dead = true}

local prefix -- of the keys of this call
local verbs = {}

local function call(...)
  return redis.call(...)
end

-- Makes a function of the server: a verb, whose arguments come as one JSON object.
local function define(name, body)
  verbs[name] = body
  redis.register_function('workflow_1_' .. name, function(keys, args)
    prefix = keys[1]
    return body(cjson.decode(args[1]))
  end)
end

local function key_of(kind, id)
  return prefix .. kind .. ':' .. id
end

-- Lua joins a number with 14 digits; a time may have 16.
local function digits(number)
  return string.format('%.0f', number)
end

local function set_of(items)
  local set = {}
  for _, item in ipairs(items) do
    set[item] = true
  end
  return set
end

-- Lua's own `<` goes by the locale of the server.
local function bytes_before(left, right)
  for place = 1, math.min(#left, #right) do
    local a, b = left:byte(place), right:byte(place)
    if a ~= b then
      return a < b
    end
  end
  return #left < #right
end

-- A notice of work; without a run id it says that anything may have happened.
local function tell(run_id)
  call('PUBLISH', prefix .. 'notices', run_id or '')
end

-- Reads named fields of a hash, with `false` where there is none; nil without the first field.
local function read_fields(key, texts, numbers)
  local found = call('HMGET', key, unpack(texts))
  if not found[1] then
    return nil
  end
  local row = {}
  for place, name in ipairs(texts) do
    row[name] = found[place]
  end
  found = call('HMGET', key, unpack(numbers))
  for place, name in ipairs(numbers) do
    row[name] = found[place] and tonumber(found[place])
  end
  return row
end

-- Writes fields of a hash and of the row that was read from it; `false` removes a field.
local function write_fields(key, row, changes)
  local written, removed = {}, {}
  for name, value in pairs(changes) do
    row[name] = value
    if value == false then
      removed[#removed + 1] = name
    else
      written[#written + 1] = name
      written[#written + 1] = value
    end
  end
  if #written > 0 then
    call('HSET', key, unpack(written))
  end
  if #removed > 0 then
    call('HDEL', key, unpack(removed))
  end
end

local function read_head(run_id)
  return read_fields(key_of('run', run_id), HEAD_TEXTS, HEAD_NUMBERS)
end

local function read_record(run_id)
  return call('HGETALL', key_of('run', run_id))
end

local function is_live(run_id)
  local status = run_id and call('HGET', key_of('run', run_id), 'status')
  return status and not TERMINAL[status]
end

-- From when on a run can be claimed, as far as time decides it.
local function claimable_from(head)
  if head.status == 'running' then
    return head.lease_expires_at_ms
  end
  return head.due_at_ms
end

local function lane_of(head)
  return cjson.encode({head.priority, head.queue, head.workflow_id, head.workflow_version})
end

local function leave_indexes(head)
  if TERMINAL[head.status] then
    call('ZREM', prefix .. 'ended', head.run_id)
  elseif claimable_from(head) then
    local lane = lane_of(head)
    local key = key_of('lane:' .. head.status, lane)
    call('ZREM', key, head.run_id)
    if call('EXISTS', key) == 0 then
      call('SREM', prefix .. 'lanes:' .. head.status, lane)
    end
  end
end

local function enter_indexes(head)
  if TERMINAL[head.status] then
    call('ZADD', prefix .. 'ended', head.finished_at_ms, head.run_id)
  elseif claimable_from(head) then
    local lane = lane_of(head)
    call('ZADD', key_of('lane:' .. head.status, lane), claimable_from(head), head.run_id)
    call('SADD', prefix .. 'lanes:' .. head.status, lane)
  end
end

local function erase(changes, ...)
  for _, name in ipairs({...}) do
    changes[name] = false
  end
end

-- Changes a head, and every index with it. What belongs to another status goes: a lease is of a running run,
-- an awaited list of a paused one, a due time of one that is queued or paused.
local function save_head(head, changes)
  local status = changes.status or head.status
  if status ~= 'running' then
    erase(changes, 'lease_owner', 'lease_token', 'lease_expires_at_ms')
  end
  if status ~= 'paused' then
    erase(changes, 'awaited', 'first_awaited', 'awaited_count')
  end
  if status ~= 'paused' and status ~= 'queued' then
    erase(changes, 'due_at_ms')
  end
  if not TERMINAL[status] then
    erase(changes, 'finished_at_ms', 'error', 'reason')
  end
  leave_indexes(head)
  write_fields(key_of('run', head.run_id), head, changes)
  enter_indexes(head)
end

local function place_in_listing(head)
  return string.format('%016.0f', head.created_at_ms) .. head.run_id
end

local function add_run(facts)
  local head = {
    status = 'queued', next_index = 0, inbox_seq = 0, cancel_requested = 0, crashes = 0, silent = 0, heard = 0,
    lease_number = 0, due_at_ms = facts.created_at_ms, updated_at_ms = facts.created_at_ms,
  }
  for name, value in pairs(facts) do
    head[name] = value
  end
  write_fields(key_of('run', head.run_id), {}, head)
  call('ZADD', prefix .. 'runs', 0, place_in_listing(head))
  head = read_head(head.run_id)
  enter_indexes(head)
  return head
end

local function remove_run(head)
  leave_indexes(head)
  call('ZREM', prefix .. 'runs', place_in_listing(head))
  for _, kind in ipairs({'run', 'log', 'inbox', 'untaken', 'known', 'timers'}) do
    call('DEL', key_of(kind, head.run_id))
  end
end

-- Appends events, each {bytes of payload, JSON}, and gives the new length of the log.
local function add_events(head, events)
  local index = head.next_index
  for _, event in ipairs(events) do
    call('RPUSH', key_of('log', head.run_id), digits(event[1]) .. ' ' .. digits(index) .. ' ' .. event[2])
    index = index + 1
  end
  return index
end

-- Puts an entry, {bytes of payload, JSON}, into the inbox and gives its number.
local function add_entry(head, entry)
  local seq = head.inbox_seq + 1
  local text = digits(entry[1]) .. ' ' .. digits(seq) .. ' ' .. entry[2]
  call('HSET', key_of('inbox', head.run_id), digits(seq), text)
  call('ZADD', key_of('untaken', head.run_id), seq, digits(seq))
  return seq
end

local function take_entries(head, seqs)
  for _, seq in ipairs(seqs) do
    call('ZREM', key_of('untaken', head.run_id), digits(seq))
  end
end
