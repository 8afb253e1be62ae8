"""A recipe that says something under every key."""

from __future__ import annotations

from typing import Any

from tests.recipes.tiny import plain

AGAINST = {
    'device': ['precision'], 'autoresume': ['save_latest_filename'], 'scheduler': ['scale_schedule_ratio'],
}
"""Keys that an error may name in the place of the one that was changed, as the two do not go together."""


def whole(**changes: Any) -> dict[str, Any]:
    """The tiny recipe with every key there is, to be read; it could not be trained."""
    return plain(**{
        'run_folder': 'runs/{run_name}', 'description': 'words', 'tags': {'method': 'kd'}, 'overwrite': False, 'seed': 17,
        'start_from': {'run': 'runs/earlier', 'fresh': ['classifier']},
        'scheduler': [{'name': 'linear_with_warmup', 't_warmup': '2ba'}, {'name': 'constant'}],
        'algorithms': {
            'blurpool': {'min_channels': 8}, 'label_smoothing': {'smoothing': 0.1}, 'ema': None,
            'distillation': {
                'teachers': [{'run': 'runs/earlier', 'name': 'old', 'weight': 2.0}, {'checkpoint': 'a.pt', 'model': {'name': 'x'}}],
                'loss': {'name': 'kl_divergence', 'temperature': 4.0}, 'kd_loss_weight': {'linear': {'alpha_i': 0.9}},
                'base_loss_weight': 0.1, 'start': '1ba', 'end': '0.5dur', 'interval': 2, 'probability': 0.5,
                'teachers_per_batch': 1, 'sampling': 'round_robin', 'combine': 'logits', 'check_batches': 0, 'seed': 3,
            },
        },
        'callbacks': {'lr_monitor': {}, 'speed_monitor': {'window_size': 10}}, 'loggers': {'file': {'log_traces': True}},
        'evaluators': {
            'test': {
                'data': {'name': 'digits', 'split': 'test', 'batch_size': 128}, 'interval': '1ep', 'subset_num_batches': 1,
                'metric_names': ['MulticlassAccuracy'], 'device_eval_microbatch_size': 'auto',
            },
            'val': {'data': 'digits'},
        },
        'train_dataloader_label': 'train', 'train_subset_num_batches': 4, 'spin_dataloaders': True,
        'algorithm_passes': [{'name': 'set_filo_order', 'index': 0}, 'sort_selective_backprop_first'],
        'scale_schedule_ratio': 1.5, 'step_schedulers_every_batch': True, 'eval_interval': '0.5dur', 'eval_subset_num_batches': 2,
        'log_to_console': False, 'console_stream': 'stdout', 'console_log_interval': '10ba', 'log_traces': False,
        'auto_log_hparams': False, 'load_path': 'a.pt', 'load_object_store': {'name': 's3', 'bucket': 'b'},
        'load_weights_only': False, 'load_strict_model_weights': True, 'load_progress_bar': True, 'load_ignore_keys': ['a'],
        'load_exclude_algorithms': ['EMA'], 'load_trusted': False, 'save_folder': 'checkpoints', 'save_filename': 'a{batch}.pt',
        'save_latest_filename': 'latest.pt', 'save_overwrite': True, 'save_interval': '1ep', 'save_weights_only': False,
        'save_ignore_keys': ['a'], 'save_num_checkpoints_to_keep': 1, 'save_metrics': False, 'autoresume': True,
        'parallelism_config': {'fsdp2': {'activation_checkpointing': True}, 'tp': {'layer_plan': {'fc': 'colwise_parallel'}}},
        'device': 'cpu', 'precision': 'fp32', 'precision_config': {'margin': 0}, 'device_train_microbatch_size': 8,
        'accumulate_train_batch_on_tokens': False, 'deterministic_mode': False, 'dist_timeout': 60.0,
        'ddp_sync_strategy': 'single_auto_sync', 'python_log_level': 'info', 'compile_config': {'mode': 'default'},
        'profiler': {'schedule': {'wait': 0}, 'trace_handlers': {'json': {'overwrite': True}}, 'torch_prof_record_shapes': True},
        **changes,
    })


def buildable() -> dict[str, Any]:
    """A recipe of which all can be built, on the meta device and without data, where there are runs ``a`` and ``b``."""
    return plain(
        scheduler=[{'name': 'linear_with_warmup', 't_warmup': '2ba', 'alpha_f': 0.1}, {'name': 'multi_step', 'milestones': ['1ep']}],
        optimizer={'name': 'adamw', 'lr': 0.1, 'betas': [0.9, 0.99], 'weight_decay': 0.01},
        algorithms={
            'blurpool': {'min_channels': 8}, 'label_smoothing': {'smoothing': 0.1}, 'ema': {'half_life': '10ba'},
            'distillation': {
                'teachers': [{'run': 'runs/a', 'name': 'old', 'weight': 2.0}, {'checkpoint': 's3://b/c.pt', 'logits_key': 0}],
                'loss': {'name': 'kl_divergence', 'temperature': {'linear': {'alpha_i': 4.0, 'alpha_f': 1.0}}},
                'kd_loss_weight': {'cosine_annealing': {'t_max': '1dur'}}, 'base_loss_weight': 0.1, 'start': '1ba', 'end': '0.5dur',
                'interval': 2, 'probability': 0.5, 'teachers_per_batch': 1, 'sampling': 'round_robin', 'combine': 'logits',
                'input_key': 0, 'target_key': 1, 'ignore_index': -100, 'check_batches': 0, 'seed': 3,
            },
        },
        callbacks={'lr_monitor': {}, 'speed_monitor': {'window_size': 10}, 'run_recorder': {'interval': 1.0}},
        loggers={'file': {'flush_interval': 10}}, algorithm_passes=[{'name': 'set_filo_order', 'index': 0}],
        evaluators={'test': {'data': {'name': 'digits', 'split': 'test', 'batch_size': 128}, 'metric_names': ['MulticlassAccuracy']}},
        parallelism_config={'tp': {'layer_plan': {'fc': 'colwise_parallel'}}}, profiler={'trace_handlers': {'json': {}}},
        load_object_store={'name': 'sftp', 'host': 'h'},
    )
