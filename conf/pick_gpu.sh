# Sourced before a GPU task on one machine: take a device that no other task holds, wait while all are taken.
# The lock lives as long as the task's processes, however they end.
mapfile -t tlimb_devices < <(nvidia-smi --query-gpu=index --format=csv,noheader 2> /dev/null)
while [[ ${#tlimb_devices[@]} -gt 0 && -z "${tlimb_device:-}" ]]; do
    for device in "${tlimb_devices[@]}"; do
        exec {tlimb_lock}> "/tmp/tlimb-gpu-${UID}-${device}.lock"
        if flock --nonblock "$tlimb_lock"; then
            tlimb_device=$device
            export CUDA_VISIBLE_DEVICES=$device
            break
        fi
        exec {tlimb_lock}>&-
    done
    [[ -n "${tlimb_device:-}" ]] || sleep 1
done
