-- An election of a replica that lagged behind cuts a log, and once others have written on, its end
-- tells nothing of that any more: other messages lie under offsets that were read already. Brokers
-- can tell, where they are told under which leader the last message was written. Null: not known,
-- as of what was read before this column was there; then nothing is concluded.
alter table driftd.partition_progress
    add column leader_epoch integer check (leader_epoch >= 0);
comment on column driftd.partition_progress.leader_epoch is
    'leader epoch of the last message before next_offset; null where it is not known';
