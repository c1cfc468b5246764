-- What a Postgres says of itself to one connection.
SELECT current_setting('server_version_num')::int / 10000 AS major, current_setting('server_version') AS version,
       current_setting('server_encoding') AS encoding, pg_backend_pid() AS backend, session_user AS login,
       current_setting('transaction_read_only') = 'on' AS read_only
