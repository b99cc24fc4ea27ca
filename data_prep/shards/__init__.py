"""What a build (data_prep/build.py) goes through: records on disk, the plan, the tars, and the memory of it all."""
