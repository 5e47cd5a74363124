"""What a trained potential is judged on: one file per task, each writing into the record."""
