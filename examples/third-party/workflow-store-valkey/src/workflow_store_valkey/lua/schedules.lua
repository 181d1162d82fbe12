-- Schedules and their ticks.
--
-- <prefix>schedules        zset   all ids, of one score: ordered by text
-- <prefix>schedule:<id>    hash   definition, progress, the claim of its one claimed tick, and the last settlement
-- <prefix>requested:<id>   zset   requested moments that wait for nothing
-- <prefix>waiting:<id>     zset   moments requested with `buffer-all`
-- <prefix>requests:<id>    hash   moment -> "<time of the request> <overlap>"

local DEFINITION = {
  'workflow_id', 'workflow_version', 'spec', 'input', 'overlap_policy', 'queue', 'priority', 'enabled',
}
local SCHEDULE_TEXTS = {
  'schedule_id', 'workflow_id', 'overlap_policy', 'previous_run_id', 'claim_source', 'claim_overlap', 'claim_token',
  'settled_operation', 'settled_as',
}
local SCHEDULE_NUMBERS = {
  'enabled', 'next_fire_at_ms', 'last_fire_at_ms', 'buffered_fire_at_ms', 'revision', 'claim_fire_at_ms',
  'claim_expires_at_ms', 'claim_number',
}
local TAKES_PLACE = {['cancel-previous'] = true, ['terminate-previous'] = true}
local MOST_UNCLAIMABLE = 10

local function read_schedule(schedule_id)
  return read_fields(key_of('schedule', schedule_id), SCHEDULE_TEXTS, SCHEDULE_NUMBERS)
end

local function whole_schedule(schedule_id)
  return call('HGETALL', key_of('schedule', schedule_id))
end

local function drop_claim(changes)
  erase(changes, 'claim_fire_at_ms', 'claim_source', 'claim_overlap', 'claim_token', 'claim_expires_at_ms')
end

local function create_schedule(a)
  local row = {
    schedule_id = a.schedule_id, revision = 1, claim_number = 0, created_at_ms = a.now_ms, updated_at_ms = a.now_ms,
    next_fire_at_ms = a.next_fire_at_ms,
  }
  for _, name in ipairs(DEFINITION) do
    row[name] = a[name]
  end
  row.enabled = a.enabled or 1
  write_fields(key_of('schedule', a.schedule_id), {}, row)
  call('ZADD', prefix .. 'schedules', 0, a.schedule_id)
  tell()
  return {'created', whole_schedule(a.schedule_id)}
end

define('upsert_schedule', function(a)
  local key = key_of('schedule', a.schedule_id)
  local stored = read_schedule(a.schedule_id)
  if a.expected_revision and (not stored or stored.revision ~= a.expected_revision) then
    return {'conflict', stored and whole_schedule(a.schedule_id) or false}
  elseif not stored then
    return create_schedule(a)
  end
  local changes, changed = {}, false
  for _, name in ipairs(DEFINITION) do
    local before = call('HGET', key, name)
    if type(a[name]) == 'number' then
      before = tonumber(before)
    end
    if a[name] ~= nil and a[name] ~= before then
      changes[name] = a[name]
      changed = true
    end
  end
  if not changed then
    return {'unchanged', whole_schedule(a.schedule_id)}
  end
  if changes.spec or changes.enabled == 1 then
    changes.next_fire_at_ms = a.next_fire_at_ms or false
  end
  changes.revision = stored.revision + 1
  changes.updated_at_ms = a.now_ms
  drop_claim(changes)
  write_fields(key, stored, changes)
  tell()
  return {'updated', whole_schedule(a.schedule_id)}
end)

define('get_schedule', function(a)
  return whole_schedule(a.schedule_id)
end)

define('list_schedules', function(a)
  local from = a.after and '(' .. a.after or '-'
  local rows = {}
  for place, id in ipairs(call('ZRANGE', prefix .. 'schedules', from, '+', 'BYLEX', 'LIMIT', 0, a.limit)) do
    rows[place] = whole_schedule(id)
  end
  return rows
end)

define('delete_schedule', function(a)
  if call('ZREM', prefix .. 'schedules', a.schedule_id) == 0 then
    return {'not-found'}
  end
  for _, kind in ipairs({'schedule', 'requested', 'waiting', 'requests'}) do
    call('DEL', key_of(kind, a.schedule_id))
  end
  return {'deleted'}
end)

define('request_schedule_buckets', function(a)
  if not read_schedule(a.schedule_id) then
    return {'not-found'}
  end
  local kind = a.overlap == 'buffer-all' and 'waiting' or 'requested'
  local count = 0
  for _, moment in ipairs(a.fire_times_ms) do
    local text = digits(a.now_ms) .. ' ' .. (a.overlap or '')
    if call('HSETNX', key_of('requests', a.schedule_id), digits(moment), text) == 1 then
      call('ZADD', key_of(kind, a.schedule_id), moment, digits(moment))
      count = count + 1
    end
  end
  if count > 0 then
    tell()
  end
  return {'requested', count}
end)

define('list_requested_buckets', function(a)
  local moments = {}
  for _, kind in ipairs({'requested', 'waiting'}) do
    local key = key_of(kind, a.schedule_id)
    for _, moment in ipairs(call('ZRANGE', key, digits(a.from_ms), '+inf', 'BYSCORE', 'LIMIT', 0, a.limit)) do
      moments[#moments + 1] = tonumber(moment)
    end
  end
  table.sort(moments)
  local rows = {}
  for place = 1, math.min(#moments, a.limit) do
    rows[place] = {moments[place], call('HGET', key_of('requests', a.schedule_id), digits(moments[place]))}
  end
  return rows
end)

-- When a schedule fires by itself next; false when never, and for a moment that lies behind its high-water mark.
local function next_due(schedule)
  local moment = schedule.enabled == 1 and schedule.next_fire_at_ms
  if moment and schedule.last_fire_at_ms and moment <= schedule.last_fire_at_ms then
    return false
  end
  return moment
end

local function first_moment(kind, schedule_id)
  return tonumber(call('ZRANGE', key_of(kind, schedule_id), 0, 0)[1])
end

local function tick_at(schedule, moment, source)
  local request = call('HGET', key_of('requests', schedule.schedule_id), digits(moment))
  local overlap = source ~= 'buffered' and request and request:match('^%d+ (.+)$')
  return {schedule = schedule, moment = moment, source = source, overlap = overlap or schedule.overlap_policy}
end

-- The one tick of a schedule that can be claimed now, if there is one.
local function waiting_tick(schedule, now_ms)
  local live = is_live(schedule.previous_run_id)
  if schedule.buffered_fire_at_ms and not live then
    return tick_at(schedule, schedule.buffered_fire_at_ms, 'buffered')
  end
  local due = next_due(schedule)
  local requested = first_moment('requested', schedule.schedule_id)
    or (not live and first_moment('waiting', schedule.schedule_id))
  if due and due <= now_ms and (not requested or due <= requested) then
    return tick_at(schedule, due, 'due')
  end
  return requested and tick_at(schedule, requested, 'requested')
end

local function fires_before(left, right)
  if left.moment ~= right.moment then
    return left.moment < right.moment
  end
  return bytes_before(left.schedule.schedule_id, right.schedule.schedule_id)
end

-- Sorts the ticks that wait into those of the wanted workflows and the schedules of others; also gives the earliest
-- moment at which time alone brings another tick.
local function look_for_ticks(a)
  local wanted = a.workflow_ids and set_of(a.workflow_ids)
  local ticks, foreign, next_ms = {}, {}, math.huge
  for _, id in ipairs(call('ZRANGE', prefix .. 'schedules', 0, -1)) do
    local schedule = read_schedule(id)
    local held = schedule.claim_token and schedule.claim_expires_at_ms > a.now_ms
    local tick = not held and waiting_tick(schedule, a.now_ms)
    if wanted and not wanted[schedule.workflow_id] then
      if tick and #foreign < MOST_UNCLAIMABLE then
        foreign[#foreign + 1] = id
      end
    else
      if tick then
        ticks[#ticks + 1] = tick
      end
      if held then
        next_ms = math.min(next_ms, schedule.claim_expires_at_ms)
      end
      local due = next_due(schedule)
      if due and due > a.now_ms then
        next_ms = math.min(next_ms, due)
      end
    end
  end
  table.sort(ticks, fires_before)
  return ticks, foreign, next_ms
end

local function claim_tick(tick, a)
  local schedule = tick.schedule
  local id = schedule.schedule_id
  write_fields(key_of('schedule', id), schedule, {
    claim_fire_at_ms = tick.moment, claim_source = tick.source, claim_overlap = tick.overlap,
    claim_token = a.new_token, claim_number = schedule.claim_number + 1,
    claim_expires_at_ms = a.now_ms + a.lease_ms,
  })
  local previous = is_live(schedule.previous_run_id) and schedule.previous_run_id
  return {whole_schedule(id), previous}
end

define('claim_due_schedule_buckets', function(a)
  local ticks, foreign, next_ms = look_for_ticks(a)
  local claims = {}
  for place = 1, math.min(#ticks, a.limit) do
    claims[place] = claim_tick(ticks[place], a)
  end
  if #ticks > a.limit then
    next_ms = math.min(next_ms, a.now_ms)
  end
  return {claims, next_ms < math.huge and next_ms, foreign}
end)

-- Why a tick may not start its run now; nil when it may.
local function in_the_way(schedule, a)
  local previous, buffered = schedule.previous_run_id, schedule.buffered_fire_at_ms
  if previous ~= a.run_id and is_live(previous) then
    return {'overlapping', previous}
  elseif buffered and buffered ~= a.fire_at_ms then
    local replaces = TAKES_PLACE[schedule.claim_overlap] and a.fire_at_ms > buffered
    return not replaces and {'behind', buffered} or nil
  end
end

local function start_run(schedule, a)
  if call('EXISTS', key_of('run', a.run_id)) == 1 then
    return
  end
  local facts = call(
    'HMGET', key_of('schedule', a.schedule_id), 'workflow_version', 'input', 'queue', 'priority'
  )
  add_run({
    run_id = a.run_id, workflow_id = schedule.workflow_id, workflow_version = facts[1], input = facts[2],
    queue = facts[3], priority = facts[4], created_at_ms = a.now_ms, due_at_ms = a.available_at_ms or a.now_ms,
    schedule_id = a.schedule_id, scheduled_at_ms = a.fire_at_ms, operation = 'create_run:' .. a.operation_id,
    answer = '',
  })
  tell(a.run_id)
end

-- Puts a tick back until the previous run has ended; gives how it was settled.
local function put_back(schedule, a, changes)
  local buffered = schedule.buffered_fire_at_ms
  if buffered and buffered ~= a.fire_at_ms then
    if schedule.claim_overlap == 'buffer-one' or a.fire_at_ms < buffered then
      return 'skipped'
    end
  end
  changes.buffered_fire_at_ms = a.fire_at_ms
  return 'buffered'
end

local function forget_request(a)
  for _, kind in ipairs({'requested', 'waiting'}) do
    call('ZREM', key_of(kind, a.schedule_id), digits(a.fire_at_ms))
  end
  call('HDEL', key_of('requests', a.schedule_id), digits(a.fire_at_ms))
end

local function settle(schedule, a)
  local allow, stays = schedule.claim_overlap == 'allow', a.action == 'buffer' and schedule.claim_overlap == 'buffer-all'
  local changes = {settled_operation = a.operation_id, updated_at_ms = a.now_ms}
  if schedule.buffered_fire_at_ms == a.fire_at_ms or (a.action == 'start' and not allow) then
    changes.buffered_fire_at_ms = false
  end
  if a.action == 'start' then
    start_run(schedule, a)
    changes.previous_run_id = a.run_id
    changes.settled_as = 'started'
  elseif a.action == 'skip' then
    changes.settled_as = 'skipped'
  else
    changes.settled_as = stays and 'buffered' or put_back(schedule, a, changes)
  end
  if schedule.claim_source == 'due' then
    changes.next_fire_at_ms = a.next_fire_at_ms or false
    changes.last_fire_at_ms = math.max(schedule.last_fire_at_ms or 0, a.fire_at_ms)
  end
  if not stays then
    forget_request(a)
  end
  drop_claim(changes)
  write_fields(key_of('schedule', a.schedule_id), schedule, changes)
  return {changes.settled_as, a.run_id}
end

define('mark_schedule_bucket_started', function(a)
  local schedule = read_schedule(a.schedule_id)
  if not schedule then
    return {'schedule-changed'}
  elseif schedule.settled_operation == a.operation_id then
    return {schedule.settled_as, a.run_id}
  elseif schedule.revision ~= a.expected_revision then
    return {'schedule-changed'}
  elseif schedule.claim_token ~= a.lease_token or schedule.claim_fire_at_ms ~= a.fire_at_ms then
    return {'lease-lost'}
  end
  local obstacle = a.action == 'start' and schedule.claim_overlap ~= 'allow' and in_the_way(schedule, a)
  return obstacle or settle(schedule, a)
end)
