"""Private parts of torch's FSDP2 (`fully_shard`): a sharded model becomes whole again."""

from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


def gather_shards(model: nn.Module) -> None:
    """Give every process of a sharded training the whole model, as it was before `fully_shard`; all must call this.

    Scoring, saving and verification then need no collective operation, and an adapter's head and new embedding rows are
    saved whole (PEFT's issues 453 and 2450 are about shards of them). A model that is not sharded is unchanged.
    """
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.reshard()
    whole: dict[DTensor, nn.Parameter] = {}  # a tied weight stays tied
    for module in model.modules() if sharded else ():
        for name, weight in list(module.named_parameters(recurse=False)):
            if isinstance(weight, DTensor):
                if weight not in whole:
                    whole[weight] = nn.Parameter(weight.full_tensor().detach(), weight.requires_grad)
                setattr(module, name, whole[weight])
    for state in {module._get_fsdp_state(): None for module in sharded}:
        for handle in (state._pre_forward_hook_handle, state._post_forward_hook_handle):
            handle.remove()
        for group in state._fsdp_param_groups:
            for handle in (
                *group._module_to_pre_save_state_dict_hook_handle.values(),
                *group._module_to_pre_load_state_dict_hook_handle.values(),
                *(each._post_load_hook_handle for each in group.fsdp_params),
            ):
                handle.remove()
    for module in sharded:
        module.__class__ = type(module).__mro__[type(module)._orig_cls_mro_index]
