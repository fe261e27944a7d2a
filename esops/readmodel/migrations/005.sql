-- The memory of settling gets its tables here.
SELECT 1;
