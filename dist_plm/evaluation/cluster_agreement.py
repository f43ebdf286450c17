"""Agreement of k-means clusters with the classes."""

import numpy as np
from torch import Tensor

from dist_plm.index.clustering import kmeans_labels


def nmi(embeddings: Tensor | np.ndarray, labels: Tensor | np.ndarray, *, seed: int) -> float:
    """Normalised mutual information 2 I(Y; C) / (H(Y) + H(C)) of classes Y and k-means clusters C, in [0, 1].

    Args:
        embeddings: [N, D]; read as float32.
        labels: int [N]; rows labelled -1 are ignored. K is the number of remaining classes.
        seed: Of the k-means; the same seed, library and version give the same value. The library is faiss where it is
            installed, else scikit-learn; the value depends on it in the second or third digit.
    """
    from sklearn.metrics import normalized_mutual_info_score

    classes = _numpy(labels)
    points = np.ascontiguousarray(_numpy(embeddings)[classes >= 0], dtype=np.float32)
    classes = classes[classes >= 0]
    if not len(classes):
        raise ValueError("NMI needs labelled embeddings, and there are none")
    clusters = kmeans_labels(points, len(np.unique(classes)), seed)
    return float(normalized_mutual_info_score(classes, clusters, average_method="arithmetic"))


def _numpy(values: Tensor | np.ndarray) -> np.ndarray:
    return values.detach().cpu().float().numpy() if isinstance(values, Tensor) else np.asarray(values)
