#!/bin/bash
# sbatch examples/slurm_array.sh INPUTS OUTPUTS [options of swiftmedsam]; then swiftmedsam merge.
#SBATCH --array=0-7 --cpus-per-task=4 --mem=5G
swiftmedsam --part auto --threads "$SLURM_CPUS_PER_TASK" --memory-limit 4G --skip-existing \
    --log run.jsonl --failures failures.json "$@"
