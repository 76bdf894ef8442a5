"""How engines and trainers ask for rewards."""
