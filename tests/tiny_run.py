"""The words that make a run of the real program small enough for a test: seconds, most of them imports."""

TINY = (
    "experiment=demo",
    "data_loading.image_size=16",
    "data_loading.train_size=60",
    "data_loading.validation_size=20",
    "data_loading.test_size=30",
    "training.epochs=2",
    "training.batch_size=20",
    "tracking=none",
)
