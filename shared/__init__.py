"""What every service stands on: jobs, live requests, storage, database, web edge. No business rule, no ML."""
