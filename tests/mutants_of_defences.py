"""Defences against hostile and damaged input, each taken away on purpose, and the tests that have to notice: the second
table of tests/mutation.py."""

from tests.mutants import Mutant, of

DEFENCES: list[Mutant] = [
    # Executes or writes where it should not
    *of(
        "data/remote/spans.py", "hostile/test_remote.py",
        ('SCHEMES = ("http", "https", "s3", "gs")', 'SCHEMES = ("http", "https", "s3", "gs", "file", "reference")'),
    ),
    *of(
        "data/format.py", "hostile/test_remote.py hostile/test_documents.py",
        ('_SHA256 = re.compile(r"[0-9a-f]{64}")', '_SHA256 = re.compile(r".*")'),
        ('PLAIN_NAME = re.compile(r"\\w[\\w.+ -]*")', 'PLAIN_NAME = re.compile(r".*")'),
    ),
    *of(
        "slurm/script.py", "hostile/test_launcher.py",
        ('complaint = shlex.quote(f"does not see {folder.parent}: choose a --run_dir that all nodes share")',
         'complaint = f"does not see {folder.parent}: choose a --run_dir that all nodes share"'),
        ("path = shlex.quote(str(folder / TOKEN))", "path = str(folder / TOKEN)"),
        ('    refuse_control_characters("run_dir", str(folder))\n', ""),
    ),
    *of(
        "slurm/cluster.py", "hostile/test_launcher.py",
        ('if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in text):', "if False:"),
    ),
    *of(
        "slurm/snapshot.py", "hostile/test_launcher.py",
        ("path.is_file() and BYTECODE not in path.parts", 'path.suffix == ".py" and BYTECODE not in path.parts'),
        ("if target.is_symlink() or (target.exists() and not _is_copy(target, digest)):", "if False:"),
    ),
    *of(
        "search_index/search_index.py", "hostile/test_indexes.py",
        ('not is_own(place, self.summary.get("signature"))', "False"),
        ("within = self.folder", "within = None"),
        ("self._index = self._exact_index()", 'self._index = faiss.read_index(str(self.file("index.faiss")))'),
    ),
    *of(
        "files/reading.py", "hostile/test_held.py hostile/test_indexes.py",
        ("allow_pickle=False", "allow_pickle=True"),
    ),
    # Exhausts
    *of(
        "data/remote/bounded.py", "hostile/test_remote.py",
        ("parts.append(part[: limit - size])", "parts.append(part)"),
        ("total=seconds_for(end - start, patience),", "total=None,"),
        ("if after.hostname != before.hostname or", "if"),
        ('"Accept-Encoding": "identity"', '"Accept-Encoding": "gzip"'),
        ('"auto_decompress": False', '"auto_decompress": True'),
    ),
    *of(
        "data/decode.py", "hostile/test_pictures.py",
        ("MAX_SCANS = 100", "MAX_SCANS = 100_000"),
        ("if form == JPEG and (scans", 'if image.format == "JPEG" and (scans'),
        ("(scans := _scans(data)) * pixels > MAX_SCAN_PIXELS", "(scans := _scans(data)) * pixels < 0"),
        ("if pixels > most:", "if False:"),
    ),
    *of(
        "data/rgb.py", "hostile/test_pictures.py unit/test_odd_images.py",
        ("if is_shallow(image) or image.height <= rows:", "if True:"),
        ("strip.info[\"opaque\"] = opaque[top:bottom]", "strip.info[\"opaque\"] = opaque[: bottom - top]"),
    ),
    *of(
        "files/plain_yaml.py", "hostile/test_documents.py",
        ("if self.check_event(yaml.AliasEvent):", "if False:"),
        ("text = file.read(YAML_BYTES + 1)", "text = file.read()[:YAML_BYTES]"),
    ),
    *of(
        "data/store.py", "unit/test_store.py",
        ("if shard is None or not 0 <= id - shard.first_id < shard.samples:", "if shard is None:"),
        ("<= labels.max() < len(self.classes)", "<= labels.max()"),
    ),
    *of("datasets/listing.py", "unit/test_listed.py", ("if len(parents) > MOST_FOLDERS:", "if False:")),
    *of("datasets/webdataset_tars.py", "unit/test_listed.py", ("tree.size(path) > LABEL_BYTES", "False")),
    *of("files/csv_table.py", "unit/test_listed.py", ("skipinitialspace=True, strict=True", "skipinitialspace=True")),
    *of("cli/limits.py", "hostile/test_documents.py", ("value > rules.most", "False")),
    *of("files/tar_header.py", "hostile/test_documents.py", ("if self.type in _EXTENDED and", "if False and")),
    *of(
        "serve.py", "hostile/test_page.py",
        ('"connection_limit": 500', '"connection_limit": 100'),
    ),
    *of(
        "search_index/web.py", "hostile/test_page.py",
        ("if names and name not in names:", "if False:"),
        ('known = {"localhost", "127.0.0.1", "::1"}', 'known = {"localhost"}'),
    ),
    # Says it badly
    *of(
        "files/reading.py", "hostile/test_documents.py hostile/test_indexes.py",
        ("except RecursionError as error:", "except ZeroDivisionError as error:"),
        ("    except Exception as error:\n", "    except ZeroDivisionError as error:\n"),
        ("return parse_document(file.read(most_bytes + 1), most_bytes)", "return parse_document(file.read(), 1 << 40)"),
    ),
    *of("files/names.py", "hostile/test_documents.py", ('if _moves(letter) and letter not in "\\n\\t"', "if False")),
    # Damaged runs
    *of(
        "index/embedding_pass.py",
        "hostile/test_damaged_runs.py::test_a_sweep_by_weights_that_are_gone_is_not_made_again_under_their_name",
        ("if noted and read_document(_note(file)) != file_digest(file):", "if False:"),
        ("if faults and not renewable:", "if False:"),
    ),
    *of(
        "checkpoint/summary.py", "hostile/test_damaged_runs.py::test_a_changed_summary_is_seen_whatever_was_changed "
        "hostile/test_damaged_runs.py::test_a_checkpoint_without_tensors_is_none",
        ('if document.get(OWN, "") not in ("", _own_digest(document)):', "if False:"),
        ('not any(name.endswith(".safetensors") for name in files)', "False"),
    ),
    *of(
        "training/resumption.py",
        "hostile/test_plans.py hostile/test_damaged_runs.py::test_a_damaged_plan_is_passed_over_with_its_checkpoint",
        ("if at.batch >= len(plan):", "if False:"),
        ("    latest = checkpoint.find(directory.checkpoints, world, judge)",
         "    latest = checkpoint.find(directory.checkpoints, world)"),
    ),
    *of(
        "telemetry/metrics.py", "hostile/test_damaged_runs.py::test_metrics_are_cut_back_to_whole_lines",
        ('if line.endswith(b"\\n") and _event(line)]', "if True]"),
        ("or len(text) < keep_bytes:", "or False:"),
    ),
    *of(
        "data/plan_file.py", "hostile/test_plans.py",
        ("plan.min() < least or", ""),
        ("or plan.max() >= below", ""),
    ),
    *of(
        "training/opened_run.py", "hostile/test_second_rank.py::test_a_new_run_reads_one_data_set",
        ("        compare(store, config.data.shards, world)\n", ""),
    ),
    *of(
        "cli/ending.py", "hostile/test_second_rank.py::test_all_ranks_end[manifest]",
        ("    end(status, line)\n", '    end(status, "")\n'),
    ),
]  # fmt: skip
