#!/usr/bin/env bash
# Makes sample.mp4, the video that the README's commands publish: 12 seconds of computed pictures and
# tones, a little over 1 MiB (so that it takes more than one shard), H.264 and AAC, with its index in
# front so that a player can start at once.
#
#   scripts/media/make.sh [FILE]     default: scripts/media/sample.mp4
#
# Needs ffmpeg with libx264. Takes about 10 seconds.
set -euo pipefail
out=${1:-$(dirname "${BASH_SOURCE[0]}")/sample.mp4}
command -v ffmpeg >/dev/null || {
    echo "error: there is no ffmpeg; on Debian: apt-get install ffmpeg" >&2
    exit 1
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

seconds=12
# Pictures: a game of life in colours over a slowly turning gradient, with a frame counter (that of
# testsrc2) in a corner, so that a lost or repeated frame can be seen.
pictures="
gradients=size=640x360:rate=25:duration=$seconds:seed=7:n=4:speed=0.02:c0=#083d77:c1=#5a189a:c2=#da4167:c3=#0b6e4f[back];
life=size=160x90:rate=12.5:seed=2026:ratio=0.3:mold=12:life_color=#f4d35e:death_color=#083d77:mold_color=#0d1b2a,
    scale=640:360:flags=neighbor,fps=25,format=gbrp[cells];
[back]format=gbrp[back2];
[back2][cells]blend=all_mode=screen[both];
testsrc2=size=320x180:rate=25:duration=$seconds,scale=128:72[counter];
[both][counter]overlay=496:272:shortest=1,format=yuv420p[video]"
# Sound: one chord after the other, each three seconds long, fading in and out.
# The four roots: A3, D4, E4, A3.
root="(220+73.66*eq(mod(floor(t/3)\,4)\,1)+109.63*eq(mod(floor(t/3)\,4)\,2))"
sound="aevalsrc=exprs='0.14*sin(PI*mod(t\,3)/3)*(sin(2*PI*t*$root)+sin(2*PI*t*1.25*$root)+sin(2*PI*t*1.5*$root))':s=44100:d=${seconds}[audio]"

# Two passes hit the size; one thread and no dates make the same bytes again with the same ffmpeg.
common=(-hide_banner -loglevel error -nostdin -y
    -filter_complex "$pictures;$sound" -map '[video]' -t "$seconds"
    -c:v libx264 -profile:v main -preset slow -b:v 720k -g 50 -threads 1 -passlogfile "$work/pass")
ffmpeg "${common[@]}" -pass 1 -map '[audio]' -f null /dev/null
ffmpeg "${common[@]}" -pass 2 -map '[audio]' -c:a aac -b:a 64k \
    -fflags +bitexact -flags:v +bitexact -flags:a +bitexact -map_metadata -1 \
    -movflags +faststart "$work/out.mp4"
mv "$work/out.mp4" "$out"
echo "$out: $(wc -c <"$out") bytes"
