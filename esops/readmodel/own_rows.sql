-- noted --
UPDATE esops.versions SET relations = %s WHERE projection = %s AND version = %s;

-- registry --
SELECT 'esops.versions'::regclass::oid::bigint;

-- unlogged --
SELECT EXISTS (SELECT FROM pg_class WHERE oid = ANY(%s) AND relpersistence = 'u');

-- may_read --
SELECT bool_and(has_table_privilege(oid, 'SELECT')) FROM unnest(%s::oid[]) oid;
