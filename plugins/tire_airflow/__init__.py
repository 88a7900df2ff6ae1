"""What only Airflow can hold: sensors, operators and the translation of errors. No step's logic is here."""
