-- What the holder of a lease writes.

-- Defines a driver's write. `finish` adds what is special to it to the changes of the head. The answer is kept as
-- text with the operation: "<length of the log> <end of the lease> <inbox number> <cancel flag> <status>".
local function define_write(name, finish)
  define(name, function(a)
    local head = read_head(a.run_id)
    local operation = name .. ':' .. a.operation_id
    if head and head.operation == operation then
      return {'ok', head.answer}
    elseif not head or head.status ~= 'running' or head.lease_token ~= a.lease_token then
      return {'lease-lost'}
    elseif a.expected_next_index and a.expected_next_index ~= head.next_index then
      return {'log-conflict', head.next_index}
    end
    local changes = {operation = operation, heard = 1, silent = 0, updated_at_ms = a.now_ms}
    changes.next_index = add_events(head, a.events)
    if #a.events > 0 then
      changes.crashes = 0
    end
    take_entries(head, a.taken_inbox)
    for _, timer_id in ipairs(a.removed_timers) do
      call('ZREM', key_of('timers', a.run_id), timer_id)
    end
    for _, timer in ipairs(a.set_timers) do
      call('ZADD', key_of('timers', a.run_id), timer[2], timer[1])
    end
    finish(head, a, changes)
    changes.answer = string.format(
      '%.0f %.0f %.0f %.0f %s', changes.next_index, changes.lease_expires_at_ms or 0, head.inbox_seq,
      head.cancel_requested, changes.status or head.status
    )
    save_head(head, changes)
    return {'ok', changes.answer}
  end)
end

define_write('append_events', function(head, a, changes)
  changes.lease_expires_at_ms = math.max(head.lease_expires_at_ms, a.now_ms + a.lease_ms)
end)

define_write('schedule_timer', function() end)

define_write('release_run_lease', function(head, a, changes)
  changes.status = 'queued'
  changes.due_at_ms = a.now_ms
  tell(head.run_id)
end)

define_write('mark_run_paused', function(head, a, changes)
  changes.crashes = 0
  if head.inbox_seq > a.seen_inbox_seq then
    changes.status = 'queued'
    changes.due_at_ms = a.now_ms
    tell(head.run_id)
    return
  end
  local due = tonumber(call('ZRANGE', key_of('timers', a.run_id), 0, 0, 'WITHSCORES')[2])
  changes.status = 'paused'
  changes.due_at_ms = due or false
  changes.awaited = a.awaited
  changes.first_awaited = a.first_awaited
  changes.awaited_count = a.awaited_count
  if due and due - a.now_ms < NOTICE_HORIZON_MS then
    tell(head.run_id)
  end
end)

define_write('mark_run_finished', function(head, a, changes)
  call('DEL', key_of('timers', a.run_id))
  changes.status = 'finished'
  changes.output = a.output
  changes.finished_at_ms = a.now_ms
end)

define_write('mark_run_errored', function(head, a, changes)
  if not a.parked then
    call('DEL', key_of('timers', a.run_id))
  end
  changes.status = (a.parked and 'dead') or (a.aborted and 'aborted') or 'errored'
  changes.error = a.error
  if a.parked or a.aborted then
    changes.reason = a.reason
  end
  changes.finished_at_ms = a.now_ms
end)

define('heartbeat_run_lease', function(a)
  local head = read_head(a.run_id)
  if not head or head.status ~= 'running' or head.lease_token ~= a.lease_token then
    return {'lease-lost'}
  end
  local expires = math.max(head.lease_expires_at_ms, a.now_ms + a.lease_ms)
  save_head(head, {lease_expires_at_ms = expires, heard = 1, silent = 0})
  return {'ok', expires, head.inbox_seq, head.cancel_requested, verbs.read_clock()}
end)

define('heartbeat_run_leases', function(a)
  local answers = {}
  for place, lease in ipairs(a.leases) do
    answers[place] = verbs.heartbeat_run_lease({
      run_id = lease[1], lease_token = lease[2], lease_ms = a.lease_ms, now_ms = a.now_ms
    })
  end
  return answers
end)
