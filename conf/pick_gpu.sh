# Sourced before a GPU task on one machine: take TLIMB_DEVICES devices that no other task holds, wait while too few are
# free, holding none meanwhile. The locks live as long as the task's processes, however they end.
mapfile -t tlimb_devices < <(nvidia-smi --query-gpu=index --format=csv,noheader 2> /dev/null)
if [[ ${#tlimb_devices[@]} -gt 0 && ${#tlimb_devices[@]} -lt ${TLIMB_DEVICES:-1} ]]; then
    echo "this machine has ${#tlimb_devices[@]} GPUs, and trainer.devices asks for ${TLIMB_DEVICES}" >&2
    exit 1
fi
tlimb_taken=()
while [[ ${#tlimb_devices[@]} -gt 0 && ${#tlimb_taken[@]} -lt ${TLIMB_DEVICES:-1} ]]; do
    tlimb_taken=() tlimb_locks=()
    for device in "${tlimb_devices[@]}"; do
        exec {tlimb_lock}> "/tmp/tlimb-gpu-${UID}-${device}.lock"
        if [[ ${#tlimb_taken[@]} -lt ${TLIMB_DEVICES:-1} ]] && flock --nonblock "$tlimb_lock"; then
            tlimb_taken+=("$device") tlimb_locks+=("$tlimb_lock")
        else
            exec {tlimb_lock}>&-
        fi
    done
    if [[ ${#tlimb_taken[@]} -lt ${TLIMB_DEVICES:-1} ]]; then
        for lock in "${tlimb_locks[@]}"; do exec {lock}>&-; done
        tlimb_taken=()
        sleep "1.$((RANDOM % 10))"
    fi
done
if [[ ${#tlimb_taken[@]} -gt 0 ]]; then
    export CUDA_VISIBLE_DEVICES=$(IFS=,; echo "${tlimb_taken[*]}")
fi
