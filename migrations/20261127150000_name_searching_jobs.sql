-- A job whose hyperparameters are being searched. Alone here: Postgres lets nobody use a new value of an
-- enum in the transaction that adds it.
alter type driftd.job_state add value 'searching' before 'queued';
