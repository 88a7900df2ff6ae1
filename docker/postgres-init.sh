#!/bin/sh
# Run once by PostgreSQL's image on an empty volume: a role and a database for each owner, and nothing for the others.
# UTF-8 whatever the host's locale: in SQL_ASCII, a DAG whose documentation has an arrow cannot be written.
for owner in airflow mlflow ledger; do
  psql --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<SQL
\getenv password $(printf %s "$owner" | tr '[:lower:]' '[:upper:]')_DB_PASSWORD
CREATE ROLE $owner LOGIN PASSWORD :'password';
CREATE DATABASE $owner OWNER $owner ENCODING 'UTF8' TEMPLATE template0;
REVOKE ALL ON DATABASE $owner FROM PUBLIC;
SQL
done
