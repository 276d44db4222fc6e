-- `start_at` is for the partitions that a topic has when driftd first sees it. One that is added later
-- is read from its first message, so that no message of a watched topic is left out.
alter table driftd.topics
    add column first_partitions int;            -- null: older than this column, or not known

update driftd.topics set first_partitions = partitions;
