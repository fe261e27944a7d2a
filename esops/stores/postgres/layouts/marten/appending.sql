-- make --
-- The stream's row, where there is none.
INSERT INTO {streams} (id, version{tenant_column}) SELECT {id}, 0{tenant_value}
WHERE NOT EXISTS (SELECT FROM {streams} WHERE id = {id}{and_tenant}) ON CONFLICT DO NOTHING

-- lock --
-- Its version, and whether it is archived: a stream may have a row in each partition of is_archived.
SELECT version, is_archived FROM {streams} WHERE id = {id}{and_tenant}
ORDER BY is_archived DESC LIMIT 1 FOR UPDATE

-- insert --
-- What Marten's quick append does: the number is drawn inside the transaction. The time is always
-- given: in 9 the column's default is the moment when the table was made.
INSERT INTO {events}
    (seq_id, id, stream_id, version, data, type, timestamp, tenant_id{columns})
VALUES (nextval({sequence}), %(id)s, {id}, %(version)s, %(data)s::jsonb, %(type)s,
    coalesce(%(recorded_at)s::timestamptz, now()), {tenant}{values})
RETURNING seq_id

-- move --
-- The stream's new version.
UPDATE {streams} SET version = %(version)s,
    timestamp = coalesce(%(recorded_at)s::timestamptz, now()) WHERE id = {id}{and_tenant}
