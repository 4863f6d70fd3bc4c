#!/bin/sh
# The main job on the embedded default: both tracks from raw rows to a decision, and toolcall on to the verdict after a
# short fine-tune on 40 rows. Run it with `make demo`.
set -eu
step() {
    start=$(date +%s)
    printf '\n== %s\n' "$*"
    "$@"
    printf '== %s s\n' "$(($(date +%s) - start))"
}
begin=$(date +%s)
step swap run notebooks/01_data.ipynb
for track in toolcall structured; do
    step swap run notebooks/02_eval.ipynb -p track "$track" -p limit 8 -p max_new_tokens 128
    step swap run notebooks/03_decision.ipynb -p track "$track"
done
step swap run notebooks/02_eval.ipynb -p track toolcall -p models slm -p shots 2 -p limit 8 -p max_new_tokens 128
step swap run notebooks/04_finetune.ipynb -p track toolcall -p row_limit 40
step swap run notebooks/05_post_eval.ipynb -p track toolcall -p parity_rows 4
printf '\nThe demo took %s s. Open these:\n' "$(($(date +%s) - begin))"
for name in 01_data 02_eval_toolcall 03_decision_toolcall 02_eval_structured 03_decision_structured \
    02_eval_toolcall-slm-shots2 04_finetune_toolcall 05_post_eval_toolcall; do
    echo "  demo/05_eval/reports/$name.html"
done
echo "Metrics: demo/05_eval/*.json. Ledgers and traces: demo/05_eval/runs/. Adapter: demo/04_ft/"
