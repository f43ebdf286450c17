"""Embeddings in many files against one array, and where an index lies against its bytes."""

import numpy as np
import pytest

from dist_plm.config import Config
from dist_plm.config.index import IndexConfig
from dist_plm.errors import UserError
from dist_plm.index import embedding_files as module
from dist_plm.index.embedding_files import Embeddings
from dist_plm.index.placement import check_whole, own_slice, place, place_run


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_embeddings_in_files_are_one_array(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(module, "OPEN_MAPS", 2)
    random = np.random.default_rng(0)
    rows = random.standard_normal((57, 5)).astype(dtype)
    files = []
    for number, part in enumerate(np.split(rows, [3, 4, 20, 20, 41])):
        files.append(tmp_path / f"{number}.npy")
        np.save(files[-1], part)
    embeddings = Embeddings(files)
    assert (len(embeddings), embeddings.dim, embeddings.dtype) == (57, 5, dtype)
    for low in range(57):
        for high in range(low, 58):
            assert (embeddings.block(low, high) == rows[low:high]).all()
    ids = random.integers(0, 57, 300)
    assert (embeddings.take(ids) == rows[ids]).all() and embeddings.take(ids[:0]).shape == (0, 5)
    whole = embeddings.whole()
    assert whole.dtype == np.float32 and (whole == rows.astype(np.float32)).all()


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_slices_are_all_rows_once_and_of_a_size(world_size):
    slices = [own_slice(100, rank, world_size) for rank in range(world_size)]
    assert [row for each in slices for row in each] == list(range(100))
    assert max(map(len, slices)) - min(map(len, slices)) <= 1


def test_an_index_is_cut_when_it_does_not_fit_and_refused_when_its_pieces_do_not():
    # A million rows of 128: 512 bytes in float32 on disk, 512 copied, 4 for the norm.
    for world_size, gigabytes, sharded, held in [
        (1, 1.03, False, 1.028),
        (4, 1.03, False, 1.028),
        (4, 1.02, True, 0.257),
    ]:
        placement = place(IndexConfig(memory_gb=gigabytes), 10**6, 128, world_size)
        assert placement.sharded is sharded and placement.bytes == held * 1e9
    with pytest.raises(UserError, match=r"0\.514 GB on each of 2 ranks"):
        place(IndexConfig(memory_gb=0.5), 10**6, 128, 2)
    assert place(IndexConfig(precision="fp16"), 10**6, 128, 1).bytes == 772e6


@pytest.mark.parametrize(("factory", "code"), [("IVF64,Flat", 512), ("IVF64,SQ8", 128), ("IVF64,PQ32x8", 32)])
def test_bytes_of_an_inverted_file_are_those_that_faiss_would_write(factory, code):
    faiss = pytest.importorskip("faiss")
    placement = place(IndexConfig(factory=factory), 2000, 128, 1)
    assert placement.cells == 64 and placement.bytes == 2000 * (code + 8) + 64 * 128 * 4
    if "PQ" not in factory:  # whose training takes a while
        index = faiss.index_factory(128, factory)
        rows = np.random.default_rng(0).standard_normal((2000, 128)).astype(np.float32)
        index.train(rows)
        index.add(rows)
        assert len(faiss.serialize_index(index)) == pytest.approx(placement.bytes, rel=0.02)


def test_what_needs_all_embeddings_at_once_needs_room_for_them():
    config = Config(index=IndexConfig(memory_gb=0.05))
    config.model.dim = 128
    with pytest.raises(UserError, match="it, start more ranks"):
        place_run(config, 10**5, 1)
    assert place_run(config, 10**5, 4).sharded
    with pytest.raises(UserError, match=r"proxies.start data reads all 100,000 embeddings at once, 0\.051 GB"):
        check_whole(config, 10**5, "proxies.start", "data")
    check_whole(config, 10**4, "proxies.start", "data")
