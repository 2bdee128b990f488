"""Requests, metric definitions and channels that users of other tools send, as facts of their public documentation.

Sources: the platform's developer guide, its example notebooks, JumpStart's model specifications, the notebooks for
Hugging Face estimators, and the example scripts of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Channels = Mapping[str, tuple[str | None, str, str]]
"""Content type, input mode and record wrapper by channel."""


def _channels(names: str, content_type: str | None = None, mode: str = "File", wrapper: str = "None") -> Channels:
    return dict.fromkeys(names.split(), (content_type, mode, wrapper))


RECORDIO = _channels("train validation", "application/x-recordio")
LISTED = _channels("train validation train_lst validation_lst", "application/x-image")
JPEG = _channels("train validation train_lst validation_lst", "application/jpeg")
MANIFEST = _channels("train validation", "application/x-recordio", "Pipe", "RecordIO")
CLASS_IDS = _channels("train validation", "application/x-recordio; label-format=class-id", "Pipe", "RecordIO")
TRAINING = _channels("training")
TRAINING_AND_MODEL = {**TRAINING, **_channels("model", "application/x-sagemaker-model")}
THREE_SPLITS = _channels("training validation test")
SENTENCES = _channels("train validation", "text/plain")
SENTENCE_MANIFEST = _channels("train", "application/x-recordio", "Pipe", "RecordIO")
TRAIN_AND_TEST = _channels("train test")


@dataclass(frozen=True)
class PublishedRequest:
    """A request, and what the tool does with it.

    Attributes:
        name: short name.
        text: hyperparameters, separated by blanks.
        channels: content type, input mode and record wrapper by channel.
        dialect: the tool that it is read as; empty for a request without names of a tool.
        meaning: resulting hyperparameters, as the tool's documentation says.
        refused: whether it is rightly refused, for example because a job has no network.
    """

    name: str
    text: str
    channels: Channels
    dialect: str = ""
    meaning: Mapping[str, object] = field(default_factory=dict)
    refused: bool = False

    @property
    def hyperparameters(self) -> dict[str, str]:
        """Values by name."""
        return dict(pair.split("=", 1) for pair in self.text.split())


_SGD = {
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "lr_schedule": "constant",
    "warmup_fraction": 0,
    "layer_decay": 1,
    "augmentation": "none",
    "best_metric": "accuracy",
}
_SCRATCH = {**_SGD, "strategy": "from_scratch"}
_FULL = {**_SGD, "strategy": "full"}
_MXNET, _TF_IMAGE, _TF_TEXT = (
    *("mxnet_image_classification", "tensorflow_image_classification"),
    "tensorflow_text_classification",
)
_CALTECH = "num_layers=18 image_shape=3,224,224 num_classes=257 num_training_samples=15420"
_TF_COMMON = (
    "batch_size=32 learning_rate=0.001 beta_1=0.9 beta_2=0.999 momentum=0.9 epsilon=1e-7 rho=0.95"
    " initial_accumulator_value=0.0001 reinitialize_top_layer=Auto train_only_on_top_layer=False"
    " early_stopping_min_delta=0.0 dropout_rate=0.2 regularizers_l2=0.0001"
)
_TF_IMAGE_NAMES = (
    f"{_TF_COMMON} epochs=5 label_smoothing=0.1 image_resize_interpolation=bilinear augmentation=False"
    " augmentation_random_flip=horizontal_and_vertical augmentation_random_rotation=0.2 augmentation_random_zoom=0.1"
)
_TF_TEXT_NAMES = f"{_TF_COMMON} epochs=10 validation_split_ratio=0.2 warmup_steps_fraction=0.1 early_stopping=False"
_PLAIN_ADAM = {
    "optimizer": "adam",
    "strategy": "full",
    "lr_schedule": "constant",
    "weight_decay": 0,
    "warmup_fraction": 0,
    "learning_rate": 0.001,
    "head_learning_rate": 0.001,
    "dropout": 0.2,
    "eps": 1e-7,
}
_TRAINER = {
    "optimizer": "adamw",
    "strategy": "full",
    "weight_decay": 0,
    "lr_schedule": "linear",
    "warmup_fraction": 0,
    "gradient_clip_norm": 1,
    "best_metric": "none",
    "validation_fraction": 0,
}
_SENTENCES_OF_WORD_VECTORS = (
    "mode=supervised min_count=2 learning_rate=0.05 vector_dim=10 early_stopping=True patience=4 min_epochs=5"
    " word_ngrams=2"
)

REQUESTS = (
    PublishedRequest(
        "mxnet from scratch", f"{_CALTECH} mini_batch_size=128 epochs=5 learning_rate=0.01", RECORDIO, _MXNET,
        {**_SCRATCH, "learning_rate": 0.01, "head_learning_rate": 0.01, "batch_size": 128},
    ),
    PublishedRequest(
        "mxnet, a draw of its tuner",
        f"{_CALTECH} epochs=5 top_k=2 precision_dtype=float32 beta_1=0.35 beta_2=0.72 eps=0.003 gamma=0.41"
        " learning_rate=0.08 mini_batch_size=23 momentum=0.5 weight_decay=0.3"
        " _tuning_objective_metric=validation:accuracy",
        RECORDIO, _MXNET, {**_SCRATCH, "momentum": 0.5, "weight_decay": 0.3},
    ),
    PublishedRequest(
        "mxnet, incremental", f"{_CALTECH} mini_batch_size=256 epochs=2 learning_rate=0.1 top_k=2",
        {**RECORDIO, "model": ("application/x-sagemaker-model", "File", "None")},
        _MXNET, {**_FULL, "model_name": "resnet18"},
    ),
    PublishedRequest(
        "mxnet, list files",
        f"{_CALTECH} use_pretrained_model=1 mini_batch_size=128 epochs=2 learning_rate=0.01 top_k=2 resize=256"
        " precision_dtype=float32",
        JPEG, _MXNET, _FULL,
    ),
    PublishedRequest(
        "mxnet, transfer learning",
        f"{_CALTECH} use_pretrained_model=1 mini_batch_size=128 epochs=2 learning_rate=0.01 precision_dtype=float32",
        RECORDIO, _MXNET, {**_FULL, "head_learning_rate": 0.01},
    ),
    PublishedRequest(
        "mxnet, several labels",
        "num_layers=18 use_pretrained_model=1 image_shape=3,224,224 num_classes=5 mini_batch_size=25 resize=256"
        " epochs=5 learning_rate=0.001 num_training_samples=100 use_weighted_loss=1"
        " augmentation_type=crop_color_transform precision_dtype=float32 multi_label=1",
        LISTED, _MXNET,
        {**_FULL, "augmentation": "strong", "best_metric": "auto", "class_weights": "balanced"},
    ),
    PublishedRequest(
        "mxnet, warm start",
        f"{_CALTECH} mini_batch_size=128 epochs=10 optimizer=sgd top_k=2 precision_dtype=float32 augmentation_type=crop"
        " learning_rate=0.02 momentum=0.95 weight_decay=0.9 _tuning_objective_metric=validation:accuracy",
        RECORDIO, _MXNET, {**_SCRATCH, "augmentation": "basic", "momentum": 0.95, "weight_decay": 0.9},
    ),
    PublishedRequest(
        "mxnet, manifest of labelled images",
        "epochs=30 image_shape=3,224,224 learning_rate=0.01 lr_scheduler_step=10,20 mini_batch_size=32 num_classes=10"
        " num_layers=18 num_training_samples=900 resize=224 use_pretrained_model=1",
        MANIFEST, _MXNET, {**_FULL, "lr_schedule": "step", "lr_step_epochs": (10, 20), "lr_factor": 0.1},
    ),
    PublishedRequest(
        "mxnet, class ids",
        "image_shape=3,224,224 learning_rate=0.01 mini_batch_size=32 num_classes=3 num_layers=50"
        " num_training_samples=900 use_pretrained_model=1 multi_label=1 epochs=3",
        CLASS_IDS, _MXNET, {**_FULL, "best_metric": "auto"},
    ),
    PublishedRequest(
        "mxnet, all defaults on two hosts",
        "num_classes=10 num_training_samples=1000 augmentation_type=None beta_1=0.9 beta_2=0.999 checkpoint_frequency=1"
        " early_stopping=False early_stopping_min_epochs=10 early_stopping_patience=5 early_stopping_tolerance=0.0"
        " epochs=30 eps=1e-8 gamma=0.9 image_shape=3,224,224 kv_store=dist_sync learning_rate=0.1"
        " lr_scheduler_factor=0.1 lr_scheduler_step=10,20 mini_batch_size=32 momentum=0.9 multi_label=0 num_layers=152"
        " optimizer=sgd precision_dtype=float32 resize=256 top_k=2 use_pretrained_model=0 use_weighted_loss=0"
        " weight_decay=0.0001",
        RECORDIO, _MXNET, {**_SCRATCH, "lr_schedule": "step", "model_name": "resnet152"},
    ),
    PublishedRequest(
        "mxnet, small gray images",
        "num_classes=10 num_training_samples=60000 num_layers=20 image_shape=1,28,28 mini_batch_size=128 epochs=10"
        " learning_rate=0.1",
        RECORDIO, refused=True,
    ),
    PublishedRequest(
        "mxnet, wide images",
        "num_classes=10 num_training_samples=60000 num_layers=50 image_shape=3,224,448 epochs=2",
        RECORDIO, refused=True,
    ),
    PublishedRequest(
        "mxnet, rmsprop",
        "num_classes=10 num_training_samples=1000 num_layers=18 optimizer=rmsprop gamma=0.9 learning_rate=0.001"
        " use_pretrained_model=1 epochs=2",
        RECORDIO, _MXNET, {**_FULL, "optimizer": "rmsprop", "rho": 0.9, "momentum": 0, "weight_decay": 0},
    ),
    PublishedRequest(
        "tensorflow images",
        f"{_TF_IMAGE_NAMES} optimizer=adam early_stopping=False binary_mode=False eval_metric=accuracy",
        TRAINING_AND_MODEL, _TF_IMAGE, {**_PLAIN_ADAM, "label_smoothing": 0.1, "augmentation": "none", "epochs": 5},
    ),
    PublishedRequest(
        "tensorflow images, a draw of its tuner",
        f"{_TF_IMAGE_NAMES} optimizer=adam early_stopping=False binary_mode=False eval_metric=accuracy"
        " adam-learning-rate=0.03 _tuning_objective_metric=val_accuracy",
        TRAINING_AND_MODEL, _TF_IMAGE, {**_PLAIN_ADAM, "learning_rate": 0.03, "head_learning_rate": 0.03},
    ),
    PublishedRequest(
        "tensorflow images, two classes",
        f"{_TF_IMAGE_NAMES} optimizer=adam early_stopping=True early_stopping_patience=3 binary_mode=True"
        " eval_metric=accuracy",
        THREE_SPLITS, _TF_IMAGE, {**_PLAIN_ADAM, "num_classes": 2, "early_stopping_patience": 3},
    ),
    PublishedRequest(
        "tensorflow images, two classes by auc",
        f"{_TF_IMAGE_NAMES} optimizer=adam early_stopping=True binary_mode=True eval_metric=auc",
        TRAINING_AND_MODEL, _TF_IMAGE, {**_PLAIN_ADAM, "best_metric": "auc", "early_stopping_patience": 5},
    ),
    PublishedRequest(
        "tensorflow images, adadelta",
        f"{_TF_IMAGE_NAMES} optimizer=adadelta early_stopping=False binary_mode=False eval_metric=accuracy",
        TRAINING_AND_MODEL, _TF_IMAGE, {**_PLAIN_ADAM, "optimizer": "adadelta", "rho": 0.95},
    ),
    PublishedRequest(
        "tensorflow images, rmsprop",
        f"{_TF_IMAGE_NAMES} optimizer=rmsprop early_stopping=False binary_mode=False eval_metric=accuracy",
        TRAINING_AND_MODEL, _TF_IMAGE, {**_PLAIN_ADAM, "optimizer": "rmsprop", "rho": 0.95, "momentum": 0.9},
    ),
    PublishedRequest(
        "tensorflow texts", f"{_TF_TEXT_NAMES} optimizer=adam", TRAINING_AND_MODEL, _TF_TEXT,
        {**_PLAIN_ADAM, "epochs": 10, "validation_fraction": 0.2},
    ),
    PublishedRequest("tensorflow texts, notebook", "epochs=1 batch_size=64", TRAINING_AND_MODEL),
    PublishedRequest(
        "tensorflow texts, adamw", f"{_TF_TEXT_NAMES} optimizer=adamw".replace("=0.001 ", "=0.00005 "),
        TRAINING_AND_MODEL, _TF_TEXT,
        {"optimizer": "adamw", "warmup_fraction": 0.1, "lr_schedule": "linear", "head_learning_rate": 5e-5},
    ),
    PublishedRequest(
        "blazingtext", f"{_SENTENCES_OF_WORD_VECTORS} epochs=1", SENTENCES, "blazingtext",
        {"learning_rate": None, "early_stopping_patience": 4, "early_stopping_min_epochs": 5, "epochs": 1},
    ),
    PublishedRequest("blazingtext, pipeline", f"{_SENTENCES_OF_WORD_VECTORS} epochs=10", SENTENCES, "blazingtext"),
    PublishedRequest(
        "blazingtext, manifest", "mode=supervised epochs=10 attribute_names=source,label", SENTENCE_MANIFEST,
        "blazingtext",
    ),
    PublishedRequest(
        "jumpstart images",
        "train_only_top_layer=True epochs=5 learning_rate=0.001 batch_size=4 reinitialize_top_layer=Auto",
        TRAINING_AND_MODEL, "jumpstart",
        {"strategy": "feature_extraction", "head_solver": "sgd", "optimizer": "adam", "weight_decay": 0},
    ),
    PublishedRequest(
        "jumpstart images, with the names of its container",
        "train_only_top_layer=True epochs=5 learning_rate=0.001 batch_size=4 reinitialize_top_layer=Auto"
        " sagemaker_submit_directory=/opt/ml/input/data/code/sourcedir.tar.gz sagemaker_program=transfer_learning.py"
        " sagemaker_container_log_level=20",
        TRAINING_AND_MODEL, "jumpstart", {"strategy": "feature_extraction", "lr_schedule": "constant"},
    ),
    PublishedRequest(
        "jumpstart texts", "epochs=5 learning_rate=2e-5 batch_size=64 eval_accumulation_steps=10", TRAINING,
        "huggingface", _TRAINER,
    ),
    PublishedRequest("jumpstart sentence pairs", "epochs=1 learning_rate=5e-5 train_batch_size=32", TRAINING,
                     "huggingface", _TRAINER),
    PublishedRequest("trainer, first steps", "epochs=1 train_batch_size=32 model_name=distilbert-base-uncased",
                     TRAIN_AND_TEST, "huggingface", {**_TRAINER, "learning_rate": 5e-5, "head_learning_rate": 5e-5}),
    PublishedRequest("keras script", "epochs=1 train_batch_size=16 eval_batch_size=32 model_id=distilbert-base-uncased",
                     TRAIN_AND_TEST, "huggingface", _TRAINER),
    PublishedRequest(
        "trainer, metrics",
        "epochs=3 train_batch_size=32 checkpoints=/opt/ml/checkpoints/ model_name=distilbert-base-uncased",
        TRAIN_AND_TEST, "huggingface", _TRAINER,
    ),
    PublishedRequest(
        "trainer, images",
        'num_train_epochs=3 per_device_train_batch_size=16 model_name=google/vit-base-patch16-224-in21k'
        ' use_auth_token=""',
        TRAIN_AND_TEST, "huggingface", {**_TRAINER, "batch_size": 16},
    ),
    PublishedRequest(
        "trainer, compiler",
        "epochs=4 train_batch_size=24 eval_batch_size=32 learning_rate=3e-05 model_id=bert-base-uncased fp16=true",
        TRAIN_AND_TEST, "huggingface", {**_TRAINER, "precision": "fp16", "head_learning_rate": 3e-5},
    ),
    PublishedRequest("20 newsgroups", "epochs=1 model_name=distilbert-base-uncased num_labels=6", TRAIN_AND_TEST,
                     meaning={"num_classes": 6}),
    PublishedRequest(
        "trainer, sifting",
        "model_name_or_path=google/vit-base-patch16-224-in21k seed=100 per_device_train_batch_size=64"
        " per_device_eval_batch_size=64 learning_rate=5e-05 max_train_steps=1000 num_train_epochs=4 use_sifting=1",
        TRAIN_AND_TEST, "huggingface", {**_TRAINER, "max_steps": 1000},
    ),
    PublishedRequest(
        "script mode", "epochs=1 train_batch_size=32 model_name=distilbert-base-uncased learning_rate=3e-05",
        TRAIN_AND_TEST, "huggingface", _TRAINER,
    ),
    PublishedRequest(
        "example script on own files",
        "model_name_or_path=bert-base-cased train_file=/opt/ml/input/data/train/train.csv"
        " validation_file=/opt/ml/input/data/test/dev.csv do_train=true do_eval=true do_predict=true max_seq_length=128"
        " pad_to_max_length=true per_device_train_batch_size=32 learning_rate=2e-05 num_train_epochs=3.0"
        " weight_decay=0.01 warmup_steps=500 fp16=true overwrite_output_dir=true eval_strategy=steps eval_steps=500"
        " save_steps=500 logging_steps=50 load_best_model_at_end=true metric_for_best_model=f1 greater_is_better=true"
        " save_total_limit=2 gradient_checkpointing=true lr_scheduler_type=polynomial output_dir=/opt/ml/model",
        TRAIN_AND_TEST, "huggingface",
        {"optimizer": "adamw", "weight_decay": 0.01, "warmup_steps": 500, "lr_schedule": "linear",
         "best_metric": "macro_f1", "max_length": 128, "checkpoint_interval_steps": 500},
    ),
    PublishedRequest(
        "example script on a data set of the hub",
        "dataset_name=beans output_dir=/opt/ml/model remove_unused_columns=false label_column_name=labels do_train=true"
        " do_eval=true push_to_hub=true push_to_hub_model_id=vit-base-beans learning_rate=2e-05 num_train_epochs=5"
        " per_device_train_batch_size=8 per_device_eval_batch_size=8 logging_strategy=steps logging_steps=10"
        " eval_strategy=epoch save_strategy=epoch load_best_model_at_end=true save_total_limit=3 seed=1337",
        TRAIN_AND_TEST, refused=True,
    ),
    PublishedRequest(
        "training arguments of transformers 5",
        "model_name=roberta-base num_train_epochs=3 per_device_train_batch_size=16 learning_rate=2e-05 warmup_ratio=0.1"
        " weight_decay=0.01 lr_scheduler_type=cosine_with_restarts optim=adamw_torch_fused gradient_checkpointing=true"
        " bf16=true tf32=true dataloader_num_workers=4 eval_strategy=epoch save_strategy=epoch"
        " load_best_model_at_end=true metric_for_best_model=eval_f1 early_stopping_patience=3 seed=42"
        " group_by_length=true max_grad_norm=1.0 label_smoothing_factor=0.1",
        TRAIN_AND_TEST, "huggingface",
        {"lr_schedule": "cosine", "warmup_fraction": 0.1, "best_metric": "macro_f1", "label_smoothing": 0.1},
    ),
    PublishedRequest(
        "embedding model",
        "model_id=BAAI/bge-base-en-v1.5 train_dataset_path=/opt/ml/input/data/train/"
        " test_dataset_path=/opt/ml/input/data/test/ num_train_epochs=3 learning_rate=2e-05",
        TRAIN_AND_TEST, "huggingface", _TRAINER,
    ),
)  # fmt: skip

METRIC_DEFINITIONS: tuple[tuple[str, Mapping[str, str]], ...] = (
    (
        "tensorflow_image_classification",
        {
            r"val_accuracy: ([0-9\.]+)": "accuracy",
            r"val_loss: ([0-9\.]+)": "loss",
            r"- accuracy: ([0-9\.]+)": "train_accuracy",
            r"- loss: ([0-9\.]+)": "train_loss",
        },
    ),
    ("tensorflow_text_classification", {r"val_accuracy=([0-9\.]+)": "accuracy", r"val_loss: ([0-9\.]+)": "loss"}),
    ("jumpstart", {r"val_accuracy: ([0-9\.]+)": "accuracy", r"val Acc: ([0-9\.]+)": "accuracy"}),
    (
        "huggingface",
        {
            r"'eval_accuracy': ([0-9\.]+)": "accuracy",
            r"'eval_loss': ([0-9\.]+)": "loss",
            r"'loss': ([0-9\.]+)": "train_loss",
            r"'eval_f1': ([0-9\.]+)": "f1",
            r"'epoch': ([0-9\.]+)": "epoch",
            r"'loss': ([0-9]+(?:.|e\-)[0-9]+),?": "train_loss",
            r"'learning_rate': ([0-9]+(.|e\-)[0-9]+),?": "learning_rate",
            r"'eval_accuracy': ([0-9]+(.|e\-)[0-9]+),?": "accuracy",
            r"'eval_f1': ([0-9]+(.|e\-)[0-9]+),?": "f1",
            r"train_runtime.*=\D*(.*?)$": "seconds",
        },
    ),
    (
        "mxnet_image_classification",
        {
            r"#quality_metric: host=\S+, epoch=\S+, validation accuracy <score>=\(([0-9\.]+)\)": "accuracy",
            r"#quality_metric: host=\S+, epoch=\S+, train accuracy <score>=\(([0-9\.]+)\)": "train_accuracy",
            r"Validation-accuracy=([0-9\.]+)": "accuracy",
        },
    ),
    (
        "blazingtext",
        {r"#validation_accuracy: ([0-9\.]+)": "accuracy", r"#train_accuracy: ([0-9\.]+)": "train_accuracy"},
    ),
)
"""Regular expressions of published metric definitions by tool, with the value that they are meant to find."""
