-- function --
-- Says that the row was touched, until the transaction ends.
CREATE OR REPLACE FUNCTION pg_temp.esops_touched() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('esops.touched', 'yes', true);
    RETURN NULL;
END
$$;

-- touched --
-- Whether the row was touched in this transaction.
SELECT current_setting('esops.touched', true);
