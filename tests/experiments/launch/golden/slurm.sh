#!/bin/bash
#SBATCH --job-name=digits-1
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=digits-1-%j.log
#SBATCH --gpus-per-node=8
#SBATCH --partition=long
#SBATCH --account=x
module load cuda
export TFDS_DATA_DIR='/shared/my data'
srun --kill-on-bad-exit=0 --wait=300 twofold train --config=diffusion/images:digits --config.network.name=unet '--config.network.multipliers=(1,2)' '--config.train.steps=3 epochs' --workdir=runs/Digits_1 --distributed=auto
code=$?
if [ "$code" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"  # stopped after saving
elif [ "$code" -ne 0 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 3 ]; then
  scontrol requeue "$SLURM_JOB_ID"  # crashed
fi
exit "$code"
# sbatch THIS_FILE
# tail -F digits-1-*.log
# scancel --name=digits-1
