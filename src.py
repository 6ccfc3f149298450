import json,re,os
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
import transformers
R={r['kind']:r for r in map(json.loads,open('/tmp/fam/probe3.jsonl'))}
root=os.path.dirname(transformers.__file__)+"/models"
from rltr.families import FAMILIES, REFUSED
out={}
for k in R:
    try:
        mod=CONFIG_MAPPING[k].__module__.replace("configuration_","modeling_")
        s=open(root+"/"+"/".join(mod.split(".")[2:])+".py").read()
    except Exception as e: print("skip",k,e); continue
    out[k]=("ALL_ATTENTION_FUNCTIONS" in s, bool(re.search(r"softmax\(|scaled_dot_product",s)), bool(re.search(r"conv1d|Mamba|GatedDelta|ShortConv|RecurrentBlock|lightning|LinearAttention|linear_attn",s)))
new=[k for k in out if k not in FAMILIES and k not in REFUSED]
print("OWN", [k for k in new if not out[k][0] and out[k][1]])
print("NOATT", [k for k in new if not out[k][0] and not out[k][1]])
print("HYB", [k for k in new if out[k][0] and out[k][2]])
print("iface undeclared", [k for k in new if out[k][0] and not out[k][2] and 'does not declare' in R[k].get('why','')])
