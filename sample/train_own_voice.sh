#!/bin/sh
# Train the weights that come with the project, models/weights/streamvoiceanon, and build their voice bank.
#
#     sh sample/train_own_voice.sh SYNTHETIC REAL PIECES OUTPUT
#
# SYNTHETIC is what sample/make_training_speech.py wrote with --utterances 1249; REAL holds librispeech-voices and emodb,
# each with metadata.csv and audio; PIECES what
# sample/cut_speech.py made of the readers whom the content stage holds out (2436, 2836, 2843, 322, 3240, 3242, 3857, 412,
# 4406, 6181, 6836, 7278, 8014); everything is written under OUTPUT. With a GPU (copy the configurations, and add
# `gpu: true` and `readers: 8` to their `training`) the trainings take a quarter of an hour, with two CPU cores a day. One
# that was cut goes on where it was: add --resume to its command. docs/training.md says where what ships went another way.
set -eu
synthetic=$1 real=$2 pieces=$3 output=$4
bin=$(dirname "$0")/../.venv/bin
mkdir -p "$output/content" "$output/few" "$output/six"

# The content encoder listens to real people: readers, six of ten actors (two more choose, the last two measure), and
# eight utterances of every synthetic voice.
"$bin/voxveil" prepare folder "$real/librispeech-voices" --embed --output "$output/content/libri.parquet"
cp -r "$real/emodb/audio" "$output/six/"
grep -E '^utt_id|,emodb-(03|08|09|10|11|12),' "$real/emodb/metadata.csv" > "$output/six/metadata.csv"
"$bin/voxveil" prepare folder "$output/six" --embed --output "$output/content/emodb.parquet"
cp -r "$synthetic/audio" "$output/few/"
awk -F, 'NR == 1 || ($2 ~ /^v[0-9]+$/ && ++n <= 384)' "$synthetic/metadata.csv" > "$output/few/metadata.csv"
"$bin/voxveil" prepare folder "$output/few" --embed --output "$output/content/synthetic.parquet"
"$bin/voxveil" pretrain content --config small --index "$output/content" --name signs --output "$output"
"$bin/python" -m pipelines.fit_codebook --training "$output/signs/pretrain/content" --model "$output/signs/model" \
    --into "$output/small/model"

# Who speaks is synthetic alone.
"$bin/voxveil" prepare folder "$synthetic" --embed --output "$output/synthetic.parquet"
"$bin/voxveil" pretrain codec --config small --index "$output/synthetic.parquet" --name small --output "$output"
"$bin/voxveil" pretrain codec --config small-adversarial --index "$output/synthetic.parquet" --name own \
    --start "$output/small/model" --output "$output"
"$bin/voxveil" pretrain lm --config small --index "$output/synthetic.parquet" --name own --output "$output"

"$bin/voxveil" model compact "$output/own/model" "$output/streamvoiceanon"
"$bin/voxveil" voices build "$synthetic/metadata.csv" "$output/voices.parquet" --model "$output/streamvoiceanon" --neutral
# Half of the voices, those that speak best: by what readers say whom no network was trained on (the content encoder's
# held-out ones), in pieces as sample/cut_speech.py cuts them.
"$bin/python" -m benchmarks.bank --model "$output/streamvoiceanon" --voices "$output/voices.parquet" \
    --speech "$pieces" --utterances 4 --keep 72 --into "$output/streamvoiceanon/voices.parquet"
sha256sum "$output/streamvoiceanon"/*  # the digests for models/registry.py
