-- Reading without writing.

define('load_run', function(a)
  return read_record(a.run_id)
end)

define('load_execution', function(a)
  return {
    read_record(a.run_id), read_log(a.run_id, 0, a.history_limit, a.history_bytes),
    read_untaken(a.run_id, 0, math.huge, math.huge), read_timers(a.run_id, '+inf'),
  }
end)

define('read_events', function(a)
  return read_log(a.run_id, a.from_index, a.limit, a.max_bytes)
end)

define('read_inbox', function(a)
  return read_untaken(a.run_id, a.after_seq, a.limit, a.max_bytes)
end)

-- A page of the log with the state of the run.
define('follow_log', function(a)
  local head = call('HMGET', key_of('run', a.run_id), 'status', 'created_at_ms', 'next_index')
  return {head, read_log(a.run_id, a.from_index, a.limit, a.max_bytes)}
end)

define('get_run_timeline', function(a)
  local inbox = key_of('inbox', a.run_id)
  local entries = read_page(function(offset, count)
    local seqs = {}
    for place = 1, math.min(count, call('HLEN', inbox) - offset) do
      seqs[place] = digits(offset + place)
    end
    return #seqs > 0 and call('HMGET', inbox, unpack(seqs)) or {}
  end, a.limit, math.huge)
  return {
    read_record(a.run_id), read_log(a.run_id, 0, a.limit, math.huge), entries, read_timers(a.run_id, '+inf'),
  }
end)

local function filter_of(a)
  local statuses, workflows = a.statuses and set_of(a.statuses), a.workflow_ids and set_of(a.workflow_ids)
  local queues, start = a.queues and set_of(a.queues), a.run_id_prefix or ''
  return function(run_id)
    if run_id:sub(1, #start) ~= start then
      return false
    end
    local facts = call('HMGET', key_of('run', run_id), 'status', 'workflow_id', 'queue')
    return (not statuses or statuses[facts[1]]) and (not workflows or workflows[facts[2]])
      and (not queues or queues[facts[3]]), facts[1]
  end
end

-- Visits the runs that match, in order of creation, until `visit` gives true.
local function walk_runs(a, visit)
  local low = a.created_from_ms and string.format('[%016.0f', a.created_from_ms) or '-'
  local high = a.created_before_ms and string.format('(%016.0f', a.created_before_ms) or '+'
  local matches, after = filter_of(a), a.after and '(' .. a.after
  while true do
    local places
    if a.descending then
      places = call('ZRANGE', prefix .. 'runs', after or high, low, 'BYLEX', 'REV', 'LIMIT', 0, CHUNK)
    else
      places = call('ZRANGE', prefix .. 'runs', after or low, high, 'BYLEX', 'LIMIT', 0, CHUNK)
    end
    for _, place in ipairs(places) do
      local matched, status = matches(place:sub(17))
      if matched and visit(place:sub(17), status) then
        return
      end
    end
    if #places < CHUNK then
      return
    end
    after = '(' .. places[#places]
  end
end

define('list_runs', function(a)
  local rows = {}
  walk_runs(a, function(run_id)
    rows[#rows + 1] = call('HMGET', key_of('run', run_id), unpack(a.columns))
    return #rows >= a.limit
  end)
  return rows
end)

define('count_runs', function(a)
  local counts, pairs_found = {}, {}
  walk_runs(a, function(_, status)
    counts[status or ''] = (counts[status or ''] or 0) + 1
  end)
  for status, count in pairs(counts) do
    pairs_found[#pairs_found + 1] = {status, count}
  end
  return pairs_found
end)

define('read_clock', function()
  local now = call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end)

-- The number of the format of the records behind this prefix: 0 when there are none yet.
define('read_format', function(a)
  if a.format then
    call('SET', prefix .. 'format', a.format, 'NX')
  end
  return tonumber(call('GET', prefix .. 'format') or 0)
end)
