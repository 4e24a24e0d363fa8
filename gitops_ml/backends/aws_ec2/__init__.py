"""Jobs on rented machines of AWS EC2: one machine per trial, which ends itself."""
