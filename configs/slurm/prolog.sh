#!/bin/sh
# Slurm prolog (PrologFlags=Alloc, Prolog=/etc/slurm/tenderfs-prolog.sh): caches the data set of a job on its node before
# the job starts. The user names it on submission:
#
#   sbatch --comment=tenderfs:/mnt/data/train job.sh
#
# Runs as root on each node of the job. A data set that is cached already costs a listing. A failure is logged and does
# not keep the job from running, for its reads fetch what is missing.
set -u

comment=$(/usr/bin/squeue --noheader --job "${SLURM_JOB_ID:?}" --format=%k)
case $comment in
    tenderfs:/*) folder=${comment#tenderfs:} ;;
    *) exit 0 ;;
esac

# Prologs are ended by PrologEpilogTimeout; end before it, so that the node is not drained.
if ! /usr/bin/timeout 30m /usr/bin/tenderfs warm --recursive -- "$folder"; then
    /usr/bin/logger --tag tenderfs-prolog "job $SLURM_JOB_ID: $folder is not cached whole; the job runs anyway"
fi
exit 0
