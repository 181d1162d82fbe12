-- Deliveries from outside.

local function awaits(run_id, kind, name)
  local awaited = call('HGET', key_of('run', run_id), 'awaited')
  for _, item in ipairs(awaited and cjson.decode(awaited) or {}) do
    if item.kind == kind and item.name == name then
      return true
    end
  end
  return false
end

-- Delivers a signal, a decision or a request to retry; the last of these wakes a run whatever it waits for.
define('deliver', function(a)
  local head = read_head(a.run_id)
  if not head then
    return {'not-found'}
  end
  local known, delivery = key_of('known', a.run_id), a.kind .. ':' .. a.delivery_id
  local before = call('HGET', known, delivery)
  if before then
    return {'known', before}
  elseif TERMINAL[head.status] and head.status ~= 'dead' then
    return {'finished', head.status}
  end
  local wakes = head.status == 'paused' and (a.kind == 'retry' or awaits(a.run_id, a.kind, a.name))
  if a.only_if_waiting and not wakes then
    return {'not-waiting', head.status}
  end
  local seq = add_entry(head, a.entry)
  call('HSET', known, delivery, a.decision or digits(seq))
  local changes = {inbox_seq = seq, updated_at_ms = a.now_ms}
  if wakes then
    changes.status = 'queued'
    changes.due_at_ms = a.now_ms
  end
  if wakes or head.status == 'running' then
    tell(a.run_id)
  end
  save_head(head, changes)
  return {wakes and 'delivered' or 'buffered', seq}
end)

-- Delivers one after the other.
define('deliver_many', function(a)
  local answers = {}
  for place, delivery in ipairs(a.deliveries) do
    delivery.now_ms = a.now_ms
    answers[place] = verbs.deliver(delivery)
  end
  return answers
end)
