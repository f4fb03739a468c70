"""What a number, a bound and a certificate are. Imports nothing but the standard library."""
