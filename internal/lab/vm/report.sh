#!/bin/bash
# Runs /lab/run and reports over the second serial port, then ends the machine.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin

exec 3>/dev/ttyS1
stty raw -echo 115200 <&3

# The command writes to a pipe, as under a CI runner, not to a terminal.
mkfifo /lab/pipe
cat /lab/pipe >&3 &
copier=$!
printf '\x1ectsight-start\n' >&3
/lab/run </dev/null >/lab/pipe 2>&1 3>&-
code=$?

# What the command left running may hold the pipe: give the copier 2 s, then go on.
for _ in 1 2 3 4 5 6 7 8 9 10; do
	kill -0 "$copier" 2>/dev/null || break
	sleep 0.2
done
kill "$copier" 2>/dev/null
wait "$copier" 2>/dev/null

dmesg >/out/.dmesg
tar -C /out -czf /lab/out.tgz .
printf '\x1ectsight-result %d %d\n' "$code" "$(stat -c %s /lab/out.tgz)" >&3
cat /lab/out.tgz >&3
printf '\x1ectsight-end\n' >&3
poweroff -f
