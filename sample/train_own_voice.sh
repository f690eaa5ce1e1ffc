#!/bin/sh
# Train the weights that come with the project, models/weights/streamvoiceanon, and build their voice bank.
#
#     sh sample/train_own_voice.sh SYNTHETIC REAL OUTPUT
#
# SYNTHETIC is what sample/make_training_speech.py wrote with --utterances 864; REAL holds librispeech-voices and emodb,
# each with metadata.csv and audio; everything is written under OUTPUT. Two CPU cores take about three hours. A training
# that was cut goes on where it was: add --resume to its command.
set -eu
synthetic=$1 real=$2 output=$3
bin=$(dirname "$0")/../.venv/bin
mkdir -p "$output/content" "$output/few" "$output/six"

# The content encoder listens to real people: readers, six of ten actors (two more choose, the last two measure), and two
# utterances of every synthetic voice.
"$bin/voxveil" prepare folder "$real/librispeech-voices" --embed --output "$output/content/libri.parquet"
cp -r "$real/emodb/audio" "$output/six/"
grep -E '^utt_id|,emodb-(03|08|09|10|11|12),' "$real/emodb/metadata.csv" > "$output/six/metadata.csv"
"$bin/voxveil" prepare folder "$output/six" --embed --output "$output/content/emodb.parquet"
cp -r "$synthetic/audio" "$output/few/"
awk -F, 'NR == 1 || ($2 ~ /^v[0-9]+$/ && ++n <= 96)' "$synthetic/metadata.csv" > "$output/few/metadata.csv"
"$bin/voxveil" prepare folder "$output/few" --embed --output "$output/content/synthetic.parquet"
"$bin/voxveil" pretrain content --config small --index "$output/content" --name signs --output "$output"
"$bin/python" -m pipelines.fit_codebook --training "$output/signs/pretrain/content" --model "$output/signs/model" \
    --into "$output/small/model"

# Who speaks is synthetic alone.
"$bin/voxveil" prepare folder "$synthetic" --embed --output "$output/synthetic.parquet"
"$bin/voxveil" pretrain codec --config small --index "$output/synthetic.parquet" --name small --output "$output"
"$bin/voxveil" pretrain lm --config small --index "$output/synthetic.parquet" --name small --output "$output"

"$bin/voxveil" model compact "$output/small/model" "$output/streamvoiceanon"
"$bin/voxveil" voices build "$synthetic/metadata.csv" "$output/streamvoiceanon/voices.parquet" \
    --model "$output/streamvoiceanon" --neutral
sha256sum "$output/streamvoiceanon"/*  # the digests for models/registry.py
