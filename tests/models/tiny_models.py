"""Small models with random weights in the layouts of the published ones, so that their loading is tried offline."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ctranslate2.specs import WhisperSpec

WIDTH, MELS, FRAMES, POSITIONS = 16, 80, 1500, 448


def multilingual_whisper(folder: Path, english: Path) -> Path:
    """Write a multilingual Whisper of one layer and width 16, with the vocabulary of the English one plus a word.

    That word is the empty one: CTranslate2 takes a vocabulary with it for a multilingual model's.
    """
    generator = np.random.default_rng(0)
    folder.mkdir()
    tokenizer = json.loads((english / "tokenizer.json").read_text(encoding="utf-8"))
    words = (english / "vocabulary.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
    first_special = words.index("<|endoftext|>")
    tokenizer["model"]["vocab"][""] = first_special
    for token in tokenizer["added_tokens"]:
        token["id"] += 1
        tokenizer["model"]["vocab"].pop(token["content"], None)
    words.insert(first_special, "")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")

    def matrix(*shape: int) -> np.ndarray:
        return generator.normal(0.0, 0.1, shape).astype(np.float32)

    def fill(part: object, **shapes: tuple[int, ...]) -> None:
        for name, shape in shapes.items():
            setattr(part, name, matrix(*shape))

    def norm(part: object) -> None:
        part.gamma, part.beta = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)  # type: ignore[attr-defined]

    def attention(part: object, *outputs: int) -> None:
        norm(part.layer_norm)  # type: ignore[attr-defined]
        for linear, rows in zip(part.linear, outputs, strict=True):  # type: ignore[attr-defined]
            fill(linear, weight=(rows, WIDTH), bias=(rows,))

    def feed_forward(part: object) -> None:
        norm(part.layer_norm)  # type: ignore[attr-defined]
        fill(part.linear_0, weight=(2 * WIDTH, WIDTH), bias=(2 * WIDTH,))  # type: ignore[attr-defined]
        fill(part.linear_1, weight=(WIDTH, 2 * WIDTH), bias=(WIDTH,))  # type: ignore[attr-defined]

    spec = WhisperSpec(1, 2, 1, 2)
    fill(spec.encoder.conv1, weight=(WIDTH, MELS, 3), bias=(WIDTH,))
    fill(spec.encoder.conv2, weight=(WIDTH, WIDTH, 3), bias=(WIDTH,))
    fill(spec.encoder.position_encodings, encodings=(FRAMES, WIDTH))
    norm(spec.encoder.layer_norm)
    attention(spec.encoder.layer[0].self_attention, 3 * WIDTH, WIDTH)
    feed_forward(spec.encoder.layer[0].ffn)
    fill(spec.decoder.embeddings, weight=(len(words), WIDTH))
    fill(spec.decoder.position_encodings, encodings=(POSITIONS, WIDTH))
    norm(spec.decoder.layer_norm)
    fill(spec.decoder.projection, weight=(len(words), WIDTH))
    attention(spec.decoder.layer[0].self_attention, 3 * WIDTH, WIDTH)
    attention(spec.decoder.layer[0].attention, WIDTH, 2 * WIDTH, WIDTH)
    feed_forward(spec.decoder.layer[0].ffn)
    spec.register_vocabulary(words)
    settings = json.loads((english / "config.json").read_text(encoding="utf-8"))
    for name in ("suppress_ids", "suppress_ids_begin", "lang_ids"):
        setattr(spec.config, name, settings[name])
    spec.config.alignment_heads = [(0, 0)]
    spec.validate()
    spec.save(str(folder))

    return folder


def ecapa(folder: Path, **changed: object) -> Path:
    """Write an ECAPA-TDNN of 16 channels with the files of speechbrain/spkrec-ecapa-voxceleb that inference needs."""
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN, Classifier
    from speechbrain.processing.features import InputNormalization

    folder.mkdir()
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"channels": [16, 16, 16, 16, 48], "attention_channels": 8, "lin_neurons": 24} | changed
    network = ECAPA_TDNN(80, **sizes, kernel_sizes=[5, 3, 3, 3, 1], dilations=[1, 2, 3, 4, 1])
    torch.save(network.state_dict(), folder / "embedding_model.ckpt")
    torch.save(Classifier(sizes["lin_neurons"], out_neurons=5).state_dict(), folder / "classifier.ckpt")
    InputNormalization(norm_type="global", std_norm=False)._save(folder / "mean_var_norm_emb.ckpt")
    (folder / "label_encoder.txt").write_text(
        "".join(f"'id{number}' => {number}\n" for number in range(5)) + "================\n'starting_index' => 0\n"
    )
    (folder / "hyperparams.yaml").write_text(f"""
# Feature parameters
n_mels: 80
pretrained_path: {folder}
out_n_neurons: 5
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: !ref <n_mels>
    channels: {sizes["channels"]}
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: {sizes["attention_channels"]}
    lin_neurons: {sizes["lin_neurons"]}
classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: {sizes["lin_neurons"]}
    out_neurons: !ref <out_n_neurons>
mean_var_norm_emb: !new:speechbrain.processing.features.InputNormalization
    norm_type: global
    std_norm: False
modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    mean_var_norm_emb: !ref <mean_var_norm_emb>
    classifier: !ref <classifier>
label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
        mean_var_norm_emb: !ref <mean_var_norm_emb>
        classifier: !ref <classifier>
        label_encoder: !ref <label_encoder>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
        mean_var_norm_emb: !ref <pretrained_path>/mean_var_norm_emb.ckpt
        classifier: !ref <pretrained_path>/classifier.ckpt
        label_encoder: !ref <pretrained_path>/label_encoder.txt
""")
    return folder


def wav2vec2_emotion(folder: Path) -> Path:
    """Write a wav2vec2 recogniser of two layers with the files of speechbrain/emotion-recognition-wav2vec2-IEMOCAP.

    The parameters are named as transformers named them when that model was published.
    """
    from torchaudio.models import wav2vec2_model

    folder.mkdir()
    torch.manual_seed(0)
    network = wav2vec2_model(
        "group_norm", [(32, 10, 5)] + [(32, 3, 2)] * 4 + [(32, 2, 2)] * 2, False,
        128, 0.0, 16, 4, 2, 2, 0.0, 256, 0.0, 0.0, False, 0.0, None,
    )  # fmt: skip
    published = {"model.masked_spec_embed": torch.zeros(128)}
    for name, tensor in network.state_dict().items():
        name = name.replace("encoder.feature_projection.", "feature_projection.").replace("transformer.", "")
        name = name.replace("parametrizations.weight.original0", "weight_g")
        published["model." + name.replace("parametrizations.weight.original1", "weight_v")] = tensor
    torch.save(published, folder / "wav2vec2.ckpt")
    torch.save({"0.w.weight": torch.randn(4, 128)}, folder / "model.ckpt")
    (folder / "label_encoder.txt").write_text(
        "'neu' => 0\n'ang' => 1\n'hap' => 2\n'sad' => 3\n================\n'starting_index' => 0\n"
    )
    (folder / "hyperparams.yaml").write_text("""
wav2vec2_hub: facebook/wav2vec2-base
wav2vec2: !new:speechbrain.lobes.models.huggingface_transformers.wav2vec2.Wav2Vec2
    source: !ref <wav2vec2_hub>
    output_norm: True
    freeze: True
output_mlp: !new:speechbrain.nnet.linear.Linear
    input_size: 128
    n_neurons: 4
    bias: False
model: !new:torch.nn.ModuleList
    - [!ref <output_mlp>]
""")
    return folder
