#!/bin/sh
# Run once by PostgreSQL's image on an empty volume: a role and a database for each owner, and nothing for the others.
for owner in airflow mlflow ledger; do
  psql --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<SQL
\getenv password $(printf %s "$owner" | tr '[:lower:]' '[:upper:]')_DB_PASSWORD
CREATE ROLE $owner LOGIN PASSWORD :'password';
CREATE DATABASE $owner OWNER $owner;
REVOKE ALL ON DATABASE $owner FROM PUBLIC;
SQL
done
