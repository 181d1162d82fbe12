-- Creating, ending and removing runs from outside.

local function fields_of_lease(head, a)
  return {
    status = 'running', heard = 0, lease_owner = a.owner, lease_token = a.new_token,
    lease_number = head.lease_number + 1, lease_expires_at_ms = a.now_ms + a.lease_ms, updated_at_ms = a.now_ms,
  }
end

define('create_run', function(a)
  local operation = 'create_run:' .. a.operation_id
  local head = read_head(a.run_id)
  if head then
    local again = head.operation == operation
    return {again and 'created' or 'existing', read_record(a.run_id), again and head.answer}
  end
  head = add_run({
    run_id = a.run_id, workflow_id = a.workflow_id, workflow_version = a.workflow_version, input = a.input,
    queue = a.queue, priority = a.priority, created_at_ms = a.now_ms, due_at_ms = a.available_at_ms or a.now_ms,
    operation = operation, answer = a.owner and a.new_token or '',
  })
  if a.owner then
    save_head(head, fields_of_lease(head, a))
  else
    tell(a.run_id)
  end
  return {'created', read_record(a.run_id), head.answer}
end)

define('fork_run', function(a)
  local operation = 'fork_run:' .. a.operation_id
  local known = read_head(a.new_run_id)
  if known then
    return {known.operation == operation and 'forked' or 'existing', read_record(a.new_run_id)}
  end
  local origin = read_head(a.run_id)
  if not origin then
    return {'not-found'}
  elseif origin.next_index < a.from_index then
    return {'not-forkable', origin.next_index}
  end
  local head = add_run({
    run_id = a.new_run_id, workflow_id = origin.workflow_id, input = call('HGET', key_of('run', a.run_id), 'input'),
    workflow_version = a.workflow_version or origin.workflow_version, queue = origin.queue,
    priority = origin.priority, created_at_ms = a.now_ms, operation = operation, answer = '',
    schedule_id = origin.schedule_id or nil, scheduled_at_ms = origin.scheduled_at_ms or nil,
    forked_from_run_id = a.run_id, forked_from_index = a.from_index, next_index = a.from_index,
  })
  if a.from_index > 0 then
    call('COPY', key_of('log', a.run_id), key_of('log', a.new_run_id))
    call('LTRIM', key_of('log', a.new_run_id), 0, a.from_index - 1)
  end
  save_head(head, {next_index = add_events(head, {a.event})})
  tell(a.new_run_id)
  return {'forked', read_record(a.new_run_id)}
end)

define('cancel_run', function(a)
  local head = read_head(a.run_id)
  if not head then
    return {'not-found'}
  elseif TERMINAL[head.status] then
    return {'finished', head.status}
  elseif head.cancel_seq then
    return {'duplicate', head.cancel_seq}
  end
  local seq = add_entry(head, a.entry)
  local changes = {inbox_seq = seq, cancel_requested = 1, cancel_seq = seq, updated_at_ms = a.now_ms}
  if head.status ~= 'running' then
    changes.status = 'queued'
    changes.due_at_ms = math.min(head.status == 'queued' and head.due_at_ms or a.now_ms, a.now_ms)
  end
  save_head(head, changes)
  tell(a.run_id)
  return {'requested', seq}
end)

define('terminate_run', function(a)
  local head = read_head(a.run_id)
  if not head then
    return {'not-found'}
  elseif TERMINAL[head.status] and head.status ~= 'dead' then
    return {'finished', head.status}
  end
  call('DEL', key_of('timers', a.run_id))
  save_head(head, {
    status = 'aborted', reason = a.reason or false, finished_at_ms = a.now_ms, updated_at_ms = a.now_ms,
  })
  return {'terminated'}
end)

local function requeue(head, a, changes)
  changes.status = 'queued'
  changes.due_at_ms = a.now_ms
  changes.updated_at_ms = a.now_ms
  changes.crashes = 0
  changes.silent = 0
  save_head(head, changes)
  tell(head.run_id)
end

define('requeue_run', function(a)
  local head = read_head(a.run_id)
  if not head then
    return {'not-found'}
  elseif head.status ~= 'dead' then
    return {'not-requeueable', head.status}
  end
  requeue(head, a, {})
  return {'requeued'}
end)

define('retry_run', function(a)
  local head = read_head(a.run_id)
  if not head then
    return {'not-found'}
  elseif not set_of(a.statuses)[head.status] then
    return {'not-retryable', head.status}
  end
  local changes = {}
  if head.status == 'aborted' and head.cancel_seq then
    take_entries(head, {head.cancel_seq})
    changes = {cancel_requested = 0, cancel_seq = false}
  end
  local index = head.next_index
  changes.next_index = add_events(head, {a.event})
  requeue(head, a, changes)
  return {'retried', index}
end)

define('delete_run', function(a)
  local head = read_head(a.run_id)
  if not head then
    return {'not-found'}
  elseif head.status == 'running' and head.lease_expires_at_ms > a.now_ms and not a.force then
    return {'not-deletable', head.status}
  end
  remove_run(head)
  return {'deleted'}
end)

define('prune_runs', function(a)
  local statuses, workflows = set_of(a.statuses), a.workflow_ids and set_of(a.workflow_ids)
  local kept, pruned = 0, 0
  while pruned < a.limit do
    local ids = call(
      'ZRANGE', prefix .. 'ended', '-inf', '(' .. digits(a.finished_before_ms), 'BYSCORE', 'LIMIT', kept, CHUNK
    )
    if #ids == 0 then
      break
    end
    for _, id in ipairs(ids) do
      local head = read_head(id)
      local wanted = statuses[head.status] and (not workflows or workflows[head.workflow_id])
      if wanted and pruned < a.limit then
        remove_run(head)
        pruned = pruned + 1
      else
        kept = kept + 1
      end
    end
  end
  return pruned
end)

-- One verb for each of many runs: {id, answer, id, answer ..}.
define('for_each_run', function(a)
  local answers = {}
  for _, id in ipairs(a.run_ids) do
    a.arguments.run_id = id
    answers[#answers + 1] = id
    answers[#answers + 1] = verbs[a.called](a.arguments)
  end
  return answers
end)

-- Creates runs one after the other; tells of one that is there what it is.
define('create_runs', function(a)
  local answers = {}
  for place, run in ipairs(a.runs) do
    run.now_ms = a.now_ms
    if verbs.create_run(run)[1] == 'created' then
      answers[place] = {'created'}
    else
      local stored = key_of('run', run.run_id)
      answers[place] = {'existing', call('HGET', stored, 'workflow_id'), call('HGET', stored, 'input')}
    end
  end
  return answers
end)
