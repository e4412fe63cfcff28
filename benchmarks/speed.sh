#!/bin/sh
# sh benchmarks/speed.sh VAL/inputs OUT: make all tables of speed that need no container. It takes
# half an hour on a quiet machine. To time the container, use
# python -m swiftmedsam.evaluation.timing.runtime --engine docker.
# It compares this program, in several modes and precisions, with LiteMedSAM's algorithm in torch
# (python -m convert --fetch-lite gets the checkpoint), and with all that LiteMedSAM's script does.
# The compiled models are kept, as in the image.
set -eu
inputs=$1 out=$2
mkdir -p "$out"

has() { grep -qw "$1" /proc/cpuinfo; }

keep_compiled() {
    for precision in "$@"; do
        python -c "import app, sys; app.load(precision=sys.argv[1]).precompile()" "$precision"
    done
}
trap 'rm -rf weights/*/compiled' EXIT # else they would make later starts faster

echo "== Encoder and decoder by precision, beside a matrix product"
python -m benchmarks.speed.latency
python -m benchmarks.speed.roofline --picture "$out/roofline.png"

echo "== Four cases, whole processes"
keep_compiled f32 int8
if has avx512_bf16; then keep_compiled bf16; fi
python -m swiftmedsam.evaluation.timing.table5 "$inputs" "$out/figures" --set figures
python -m swiftmedsam.evaluation.timing.runtime "$out/figures" --out "$out/figures.csv" --once-above 30 \
    --program "LiteMedSAM=python -m benchmarks.reference.baseline" \
    --program "best=python -m app" \
    --program "step 3=python -m app --mode litemedsam --step 3" -- --mode litemedsam
# some cases only: with 241 boxes the script would draw a figure of 38 GB
python -m swiftmedsam.evaluation.timing.runtime "$out/figures" --out "$out/script.csv" --once-above 30 --only '[23]DBox_[UC]*' \
    --program "script=python -m benchmarks.reference.baseline --whole-script $out/drawn" -- --mode litemedsam

if has avx512bw; then
    echo "== The same as on the challenge's CPU: AVX-512 without VNNI and bf16"
    (
        export ONEDNN_MAX_CPU_ISA=AVX512_CORE
        keep_compiled f32 int8
        python -m swiftmedsam.evaluation.timing.runtime "$out/figures" --out "$out/avx512.csv" --once-above 30 \
            --program "LiteMedSAM=python -m benchmarks.reference.baseline" \
            --program "f32=python -m app --mode litemedsam --precision f32" \
            --program "best=python -m app" -- --mode litemedsam --precision int8
    )
fi

echo "== Growth with slices and objects"
python -m swiftmedsam.evaluation.timing.growth "$inputs" -- --mode litemedsam
python -m swiftmedsam.evaluation.timing.growth "$inputs"

echo "== The 14 shapes of the paper's Table 5"
python -m swiftmedsam.evaluation.timing.table5 "$inputs" "$out/table5"
if has avx512_bf16; then set -- --program "bf16=python -m app --mode litemedsam --precision bf16"; else set --; fi
python -m swiftmedsam.evaluation.timing.runtime "$out/table5" --out "$out/table5.csv" --plot "$out/table5.png" \
    --once-above 5 "$@" \
    --program "f32=python -m app --mode litemedsam --precision f32" \
    --program "best=python -m app" -- --mode litemedsam --precision int8
