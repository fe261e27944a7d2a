-- last_version --
-- The version that a stream is at.
SELECT coalesce(max(originator_version), 0) FROM {table} WHERE originator_id = %s

-- insert --
-- An event, as the library's recorder writes it.
INSERT INTO {table} (originator_id, originator_version, topic, state)
VALUES (%s, %s, %s, %s) RETURNING notification_id

-- tracked --
-- How far each upstream application was processed; before 9.4 there is a row for each notification.
SELECT application_name, max(notification_id) FROM {table}
WHERE application_name <> %s GROUP BY 1 ORDER BY 1

-- reached --
-- How far one of them was processed.
SELECT max(notification_id) FROM {table} WHERE application_name = %(name)s

-- move --
-- Where there is a row for each application.
UPDATE {table} SET notification_id = %(number)s WHERE application_name = %(name)s

-- enter --
-- Where there is a row for each notification, or none yet.
INSERT INTO {table} (application_name, notification_id)
VALUES (%(name)s, %(number)s) ON CONFLICT DO NOTHING
