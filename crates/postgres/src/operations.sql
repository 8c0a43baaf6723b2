-- What operators see and do. Every statement bears being run again.

-- `handled` counts events that were handled or parked, and `moved_at` is when it last grew: written with the cursor, or
-- once a second while a batch is under way. After a crash some are counted twice. `sealed_at` is when the holder took over.
ALTER TABLE {schema}.cursors ADD COLUMN IF NOT EXISTS handled bigint NOT NULL DEFAULT 0;
ALTER TABLE {schema}.cursors ADD COLUMN IF NOT EXISTS moved_at timestamptz;
ALTER TABLE {schema}.cursors ADD COLUMN IF NOT EXISTS sealed_at timestamptz;

-- One row for each replica that is or was connected, by the server process of its reading session. A replica writes its
-- row when it has connected, and no more after that: whether it is still there, pg_stat_activity knows.
CREATE TABLE IF NOT EXISTS {schema}.replicas (
    pid           integer     PRIMARY KEY,
    replica       uuid        NOT NULL,
    run_by        text        NOT NULL,
    process_id    bigint      NOT NULL,
    version       text        NOT NULL,
    address       text,
    since         timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    last_error    text,
    last_error_at timestamptz
);

-- What is paused: the whole input under an empty name, else the process of that id. The holder reads it when it takes over,
-- when it is told, and every few seconds. Whoever writes here locks the cursor row first, as whoever writes to `parked` does:
-- what is parked for a paused process is due at the end of time, and due at once when that is resumed.
CREATE TABLE IF NOT EXISTS {schema}.pauses (
    process   text        PRIMARY KEY,
    reason    text,
    paused_by text        NOT NULL,
    paused_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);

-- Who changed what by a command, and when. The newest 10,000 are kept; `run_by` is what the program says of itself.
CREATE TABLE IF NOT EXISTS {schema}.audit (
    number      bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    role        text        NOT NULL DEFAULT SESSION_USER,
    run_by      text        NOT NULL,
    address     text        DEFAULT pg_catalog.host(pg_catalog.inet_client_addr()),
    application text        NOT NULL DEFAULT pg_catalog.current_setting('application_name'),
    action      text        NOT NULL,
    details     text        NOT NULL
);
