-- Pages of a run's log and inbox, and claims, which bring them along.

-- A page of texts that begin with the bytes of their payload: bounded by number and bytes, but at least one.
-- `read(offset, count)` gives the next ones.
local function read_page(read, limit, max_bytes)
  local page, bytes = {}, 0
  while #page < limit do
    local texts = read(#page, math.min(CHUNK, limit - #page))
    if #texts == 0 then
      break
    end
    for _, text in ipairs(texts) do
      bytes = bytes + tonumber(text:match('^%d+'))
      if bytes > max_bytes and #page > 0 then
        return page
      end
      page[#page + 1] = text
    end
  end
  return page
end

local function read_log(run_id, from_index, limit, max_bytes)
  local key = key_of('log', run_id)
  return read_page(function(offset, count)
    return call('LRANGE', key, from_index + offset, from_index + offset + count - 1)
  end, limit, max_bytes)
end

local function read_untaken(run_id, after_seq, limit, max_bytes)
  local untaken, inbox = key_of('untaken', run_id), key_of('inbox', run_id)
  return read_page(function(offset, count)
    local seqs = call(
      'ZRANGE', untaken, '(' .. digits(after_seq), '+inf', 'BYSCORE', 'LIMIT', offset, count
    )
    return #seqs > 0 and call('HMGET', inbox, unpack(seqs)) or {}
  end, limit, max_bytes)
end

local function read_timers(run_id, until_ms)
  return call('ZRANGE', key_of('timers', run_id), '-inf', until_ms, 'BYSCORE', 'WITHSCORES')
end

local function read_claim(head, a)
  return {
    read_record(head.run_id), read_log(head.run_id, 0, a.history_limit, a.history_bytes),
    read_untaken(head.run_id, 0, a.inbox_limit, math.huge), read_timers(head.run_id, digits(a.now_ms)),
  }
end

-- Gives the crash count and the number of silent claims in a row after a claim from an expired lease.
local function count_crash(head)
  if head.heard == 1 then
    return head.crashes + 1, 0
  elseif head.silent + 1 == SILENT_CLAIMS_PER_CRASH then
    return head.crashes + 1, 0
  end
  return head.crashes, head.silent + 1
end

-- Claims a run whose time has come; false when that parks it as dead.
local function claim(head, a)
  local changes = fields_of_lease(head, a)
  changes.silent = 0
  if head.status == 'running' then
    changes.crashes, changes.silent = count_crash(head)
    if changes.crashes > head.crashes and changes.crashes >= a.max_crashes then
      save_head(head, {
        status = 'dead', crashes = changes.crashes, silent = 0, finished_at_ms = a.now_ms, updated_at_ms = a.now_ms,
      })
      return false
    end
  end
  save_head(head, changes)
  return true
end

define('claim_run', function(a)
  local head = read_head(a.run_id)
  if not head then
    return {'not-found'}
  end
  local from = claimable_from(head)
  if not from or from > a.now_ms then
    return {'not-claimable', head.status, from}
  elseif not claim(head, a) then
    return {'not-claimable', 'dead', false}
  end
  return {'claimed', read_claim(head, a)}
end)

local function matching_lanes(status, a)
  local queues, workflows = a.queues and set_of(a.queues), nil
  if a.workflows then
    workflows = {}
    for _, workflow in ipairs(a.workflows) do
      workflows[workflow[1] .. '\0' .. workflow[2]] = true
    end
  end
  local lanes = {}
  for _, name in ipairs(call('SMEMBERS', prefix .. 'lanes:' .. status)) do
    local facts = cjson.decode(name)
    if (not queues or queues[facts[2]]) and (not workflows or workflows[facts[3] .. '\0' .. facts[4]]) then
      lanes[#lanes + 1] = {key = key_of('lane:' .. status, name), priority = facts[1]}
    end
  end
  return lanes
end

local function goes_first(left, right)
  if left.priority ~= right.priority then
    return left.priority > right.priority
  elseif left.from ~= right.from then
    return left.from < right.from
  end
  return bytes_before(left.run_id, right.run_id)
end

-- The first runs of some lanes whose time has come. Each lane is in order by itself.
local function first_due(lanes, a)
  local due = {}
  for _, lane in ipairs(lanes) do
    local found = call(
      'ZRANGE', lane.key, '-inf', digits(a.now_ms), 'BYSCORE', 'LIMIT', 0, a.limit, 'WITHSCORES'
    )
    for place = 1, #found, 2 do
      due[#due + 1] = {run_id = found[place], from = tonumber(found[place + 1]), priority = lane.priority}
    end
  end
  table.sort(due, goes_first)
  local heads = {}
  for place = 1, math.min(#due, a.limit) do
    heads[#heads + 1] = read_head(due[place].run_id)
  end
  return heads
end

local function earliest(lanes)
  local first
  for _, lane in ipairs(lanes) do
    local from = tonumber(call('ZRANGE', lane.key, 0, 0, 'WITHSCORES')[2])
    if from and (not first or from < first) then
      first = from
    end
  end
  return first or false
end

-- All runs of one call get the same token, which is new to each of them.
define('claim_runs', function(a)
  local lanes = matching_lanes(a.status, a)
  local heads = first_due(lanes, a)
  for _, head in ipairs(heads) do
    leave_indexes(head) -- so that `earliest` leaves out what this call brings
  end
  local next_due = earliest(lanes)
  local claims, dead = {}, {}
  for _, head in ipairs(heads) do
    if claim(head, a) then
      claims[#claims + 1] = read_claim(head, a)
    else
      dead[#dead + 1] = head.run_id
    end
  end
  return {claims, next_due, dead}
end)

define('list_pending_runs', function(a)
  local rows = {}
  for place, head in ipairs(first_due(matching_lanes('queued', a), a)) do
    rows[place] = call('HMGET', key_of('run', head.run_id), unpack(a.columns))
  end
  return rows
end)
