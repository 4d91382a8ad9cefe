#!/bin/bash
# Ray on four machines of a Slurm cluster. Untested: no cluster was available.
#SBATCH --nodes 4 --ntasks-per-node 1 --gpus-per-node 4 --cpus-per-task 32 --requeue
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --nodes 1 --ntasks 1 --nodelist "$head" ray start --head --port 6379 --block &
sleep 30
srun --nodes 3 --ntasks 3 --exclude "$head" ray start --address "$head:6379" --block &
sleep 30
itaclip label /shared/photos --classes "cat; dog" --out /shared/labels --address "$head:6379"
