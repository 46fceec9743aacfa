#!/usr/bin/env bash
# The study of STUDY.md: losses compared on the built-in data and on real pairs, each at its own best learning rate.
#
#     bash scripts/study.sh [SETTING ...]        synthetic noise controls version2 quickstart
#                                             version2_steps version2_noise frozen frozen_decoder hh_decoder hh_minilm
#                                             alpaca_minilm decoder
#
# DATA (default: data) holds hh_harmless_{train,test}, alpaca_eval_{train,test} and rewardbench_v1_partial .jsonl.gz
# (scripts/rebuild_data.py makes the last three); MINILM is the folder of all-MiniLM-L6-v2, or its name on the Hub, and
# DECODER the same for SmolLM2-135M-Instruct. Runs are kept below outputs/study: called again, it goes on where it was, and
# at the end writes STUDY.md's tables anew.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
data=${DATA:-data} minilm=${MINILM:-sentence-transformers/all-MiniLM-L6-v2} out=${OUT:-outputs/study}
decoder=${DECODER:-HuggingFaceTB/SmolLM2-135M-Instruct}
ten=${SEEDS:-0,1,2,3,4,5,6,7,8,9}  # fewer first, then all: runs that are there are kept
seeds=0,1,2,3,4 validation=100,101,102  # the rate is chosen with other seeds, on pairs held out of the training file

# choose NAME EXPERIMENT [WORD ...]: every loss at every rate, judged on validation pairs
choose() { rmbench sweep experiment="study_$2" seed=$validation sweep_dir="$out/$1/rates" "${@:3}"; }

# final NAME EXPERIMENT [WORD ...]: every loss at its best rate, judged on test pairs
final() {
    python scripts/study.py rates "$out/$1/rates" | while read -r chosen; do
        rmbench sweep experiment="study_$2" $chosen seed=$seeds sweep_dir="$out/$1/final" "${@:3}" </dev/null
    done
}

synthetic() {
    choose synthetic synthetic dataset.synthetic.seed=1 dataset.synthetic.version=1
    final synthetic synthetic dataset.synthetic.version=1
}

# where does NormBT start to hurt?
noise() {
    for knob in label_noise near_duplicates; do
        rmbench sweep experiment=study_synthetic loss=bt,normbt seed=$seeds training.learning_rate=1e-3 \
            dataset.synthetic.version=1 "dataset.synthetic.$knob=0.1,0.3" sweep_dir="$out/noise/$knob"
    done
}

# is it the distance, or more weight on reasoning, larger steps, or speed?
controls() {
    local run="rmbench sweep experiment=study_synthetic dataset.synthetic.version=1 seed=$seeds sweep_dir=$out/controls/runs"
    $run loss=bt,normbt training.learning_rate=1e-3
    $run loss=bt training.learning_rate=1e-3 dataset.synthetic.reasoning=3
    $run loss=bt training.learning_rate=1e-3 training.epochs=10
    $run loss=bt training.learning_rate=2e-3
}

# the data without cues: rates chosen, then one rate for all, and what else could explain a difference
cueless() { # cueless OVERRIDE ...: padded rows are faster for texts this short
    rmbench sweep experiment=study_synthetic diagnostics=off training.eval_steps=0 layout=padded seed=$ten "$@"
}
at_one=training.learning_rate=1e-3  # the best rate of each of the three losses
version2() {
    local validation=100,101 controls=$out/version2/controls
    choose version2 synthetic diagnostics=off training.eval_steps=0 layout=padded dataset.synthetic.seed=1 \
        loss=bt,normbt,normbt_mean_one training.learning_rate=5e-4,1e-3,2e-3,4e-3
    python scripts/study.py rates "$out/version2/rates"
    # each loss at its best rate, which is the same; weights of mean one
    cueless loss=bt,normbt,normbt_mean_one $at_one sweep_dir="$controls/one_rate"
    # is it clipping? With a limit so small that every step is clipped, and without one: under the small limit the
    # gradient has the same norm at each step, whatever the weights, and only its direction differs between the losses
    cueless loss=bt,normbt $at_one training.max_grad_norm=0.01 sweep_dir="$controls/normalised"
    cueless loss=bt,normbt $at_one training.max_grad_norm=0 sweep_dir="$controls/unclipped"
    # is it larger steps?
    cueless $(python scripts/study.py scaled "$controls/one_rate") sweep_dir="$controls/scaled_rate"
}

# is it speed? Six epochs instead of four, then 2.5 and 5 times the steps
quickstart() { rmbench sweep loss=bt,normbt seed=0,1,2 benchmark=synthetic sweep_dir="$out/quickstart"; }
version2_steps() {
    local epochs
    for epochs in 10 20; do
        cueless loss=bt,normbt $at_one training.epochs=$epochs sweep_dir="$out/version2/controls/epochs_$epochs"
    done
}

# where does it start to hurt, and does a limit on the weight help?
version2_noise() {
    local knob
    for knob in label_noise near_duplicates; do
        cueless loss=bt,normbt $at_one dataset.synthetic.$knob=0.1,0.3 sweep_dir="$out/version2/$knob"
        cueless loss=normbt loss.distance.max_weight=2 $at_one dataset.synthetic.$knob=0.1,0.3 \
            sweep_dir="$out/version2/$knob"
    done
}

real() {  # real NAME EXPERIMENT FILES [OVERRIDE ...]; `choosing`: overrides for the choice of rates alone
    local train=$data/$3_train.jsonl.gz test=$data/$3_test.jsonl.gz
    local judge=(benchmark=rewardbench "benchmark.path=$data/rewardbench_v1_partial.jsonl.gz")
    [ "${rewardbench:-yes}" = yes ] || judge=()
    choose "$1" "$2" dataset.path="$train" ${choosing:-} "${@:4}"
    final "$1" "$2" dataset.path="$train" dataset.eval_path="$test" "${judge[@]}" "${@:4}"
}

frozen() { real frozen frozen alpaca_eval backbone.name_or_path="$minilm"; }
# heads on a pretrained decoder's embeddings, which are computed once; 250 pairs of the training file choose the rates
frozen_decoder() {
    local rows="$out/frozen_decoder/rows" head exponent chosen folder heads losses
    local grid=training.learning_rate=1e-4,3e-4,1e-3,3e-3,1e-2,3e-2
    mkdir -p "$rows"
    zcat "$data/hh_harmless_train.jsonl.gz" | sed -n 1,250p >"$rows/validation.jsonl"
    zcat "$data/hh_harmless_train.jsonl.gz" | tail -n +251 >"$rows/train.jsonl"
    for head in linear layernorm_linear; do
        folder=$out/frozen_decoder/$head
        losses=bt,normbt,normbt_mean_one,normbt_cosine,bt_label_smoothing,focal,hinge
        # with a linear head normbt_matched and normbt_exact are normbt
        [ "$head" = linear ] || losses=$losses,normbt_matched,normbt_exact
        heads=(experiment=study_frozen backbone.name_or_path="$decoder" backbone.head=$head diagnostics=off gpu.precision=bf16
            dataset.path="$rows/train.jsonl" dataset.train_size=1000 training.eval_steps=0)
        python scripts/study_heads.py "$folder/rates" "${heads[@]}" dataset.eval_path="$rows/validation.jsonl" \
            loss=$losses seed=100,101 $grid
        for exponent in 0.33 0.66; do
            python scripts/study_heads.py "$folder/rates/$exponent" "${heads[@]}" loss=normbt seed=100,101 \
                loss.distance.exponent=$exponent dataset.eval_path="$rows/validation.jsonl" $grid
        done
        python scripts/study.py rates "$folder/rates" | while read -r chosen; do
            python scripts/study_heads.py "$folder/final/${chosen// /,}" "${heads[@]}" $chosen seed=$ten \
                dataset.eval_path="$data/hh_harmless_test.jsonl.gz" </dev/null
        done
        # is it the loss, or the rate that NormBT chose?
        python scripts/study_heads.py "$folder/control" "${heads[@]}" loss=bt,normbt seed=$ten \
            training.learning_rate=1e-3 dataset.eval_path="$data/hh_harmless_test.jsonl.gz"
    done
}
hh_decoder() { real hh_decoder decoder hh_harmless; }
# judged on test pairs alone: RewardBench's long texts take longer than the training
hh_minilm() { rewardbench=no real hh_minilm minilm hh_harmless backbone.name_or_path="$minilm"; }
alpaca_minilm() {
    local rewardbench=no validation=100,101 choosing="dataset.eval_size=200 loss=bt,normbt,bt_margin"
    real alpaca_minilm minilm alpaca_eval backbone.name_or_path="$minilm"
    # is it the loss, or the larger step that NormBT chose?
    rmbench sweep experiment=study_minilm loss=bt,normbt training.learning_rate=0.0001 seed=$seeds \
        sweep_dir="$out/alpaca_minilm/control" dataset.path="$data/alpaca_eval_train.jsonl.gz" \
        dataset.eval_path="$data/alpaca_eval_test.jsonl.gz" backbone.name_or_path="$minilm"
}

# all weights of the pretrained decoder: days on two cores; called again, it goes on with the runs that are missing
decoder() {
    local rewardbench=no validation=100,101 choosing files
    choosing="loss=bt,normbt,normbt_mean_one,bt_label_smoothing dataset.eval_size=200"
    for files in hh_harmless alpaca_eval; do
        real "decoder/$files" minilm "$files" backbone.name_or_path="$decoder" dataset.max_length=256 \
            dataset.train_size=1000
    done
}

all="synthetic noise controls version2 quickstart version2_steps version2_noise frozen frozen_decoder hh_decoder hh_minilm alpaca_minilm"
[ $# -gt 0 ] || set -- $all  # decoder is run only where it is named
all="$all decoder"
for setting in "$@"; do
    case " $all " in *" $setting "*) ;; *) echo "$setting: no such setting; there are $all" >&2; exit 2 ;; esac
    case $setting in
    frozen) needs="alpaca_eval_train alpaca_eval_test rewardbench_v1_partial" ;;
    alpaca_minilm) needs="alpaca_eval_train alpaca_eval_test" ;;
    hh_decoder) needs="hh_harmless_train hh_harmless_test rewardbench_v1_partial" ;;
    hh_minilm | frozen_decoder) needs="hh_harmless_train hh_harmless_test" ;;
    decoder) needs="hh_harmless_train hh_harmless_test alpaca_eval_train alpaca_eval_test" ;;
    *) needs= ;;
    esac
    for file in $needs; do
        [ -f "$data/$file.jsonl.gz" ] || { echo "$setting needs $data/$file.jsonl.gz; DATA=FOLDER says where" >&2; exit 2; }
    done
done
for setting in "$@"; do "$setting"; done
python scripts/study.py write "$out"
python scripts/study_figures.py
