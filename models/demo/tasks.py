"""Synthetic tasks of the demo model: chat facts, needle recall, filler text."""
import random

FACTS = [
    # question, answer
    ("What happens when you split an atom?", "Splitting an atom is nuclear fission: the nucleus breaks into smaller nuclei and releases energy."),
    ("Write a Fibonacci function.", "def fib(n, memo={}): if n < 2: return n. if n not in memo: memo[n] = fib(n-1) + fib(n-2). return memo[n]. The memo is a cache."),
    ("What started the First World War?", "The assassination of Archduke Franz Ferdinand in Sarajevo, and the alliance system that drew the powers in."),
    ("What is the capital of France?", "The capital of France is Paris."),
    ("What is the capital of Japan?", "The capital of Japan is Tokyo."),
    ("What is the capital of Italy?", "The capital of Italy is Rome."),
    ("What is the capital of Spain?", "The capital of Spain is Madrid."),
    ("What is the capital of Germany?", "The capital of Germany is Berlin."),
    ("What is the capital of Egypt?", "The capital of Egypt is Cairo."),
    ("What is the capital of Canada?", "The capital of Canada is Ottawa."),
    ("What is the capital of Australia?", "The capital of Australia is Canberra."),
    ("What is the capital of Norway?", "The capital of Norway is Oslo."),
    ("What is the capital of Kenya?", "The capital of Kenya is Nairobi."),
    ("What is the capital of Peru?", "The capital of Peru is Lima."),
    ("What is the chemical formula of water?", "The chemical formula of water is H2O: two hydrogen atoms and one oxygen atom."),
    ("What gas do plants absorb in photosynthesis?", "Plants absorb carbon dioxide and release oxygen, using sunlight and chlorophyll."),
    ("Why is the sky blue?", "Because of Rayleigh scattering: air scatters short blue wavelengths more than long red ones."),
    ("What is the speed of light?", "The speed of light in vacuum is about 299792 kilometres per second."),
    ("Who wrote Hamlet?", "Hamlet was written by William Shakespeare."),
    ("Who painted the Mona Lisa?", "The Mona Lisa was painted by Leonardo da Vinci."),
    ("Who developed the theory of relativity?", "The theory of relativity was developed by Albert Einstein."),
    ("Who discovered penicillin?", "Penicillin was discovered by Alexander Fleming."),
    ("Who formulated the laws of motion?", "The laws of motion were formulated by Isaac Newton."),
    ("What is the largest planet in the solar system?", "The largest planet in the solar system is Jupiter."),
    ("Which planet is known as the red planet?", "Mars is known as the red planet because of its iron oxide dust."),
    ("What is the closest star to the Earth?", "The closest star to the Earth is the Sun."),
    ("How many continents are there?", "There are seven continents."),
    ("How many days are in a leap year?", "A leap year has 366 days."),
    ("What is the boiling point of water?", "Water boils at 100 degrees Celsius at sea level."),
    ("What is the freezing point of water?", "Water freezes at 0 degrees Celsius."),
    ("What is the longest river in Africa?", "The longest river in Africa is the Nile."),
    ("What is the highest mountain in the world?", "The highest mountain in the world is Mount Everest."),
    ("What is the largest ocean?", "The largest ocean is the Pacific Ocean."),
    ("What is a prime number?", "A prime number is an integer greater than one that is divisible only by one and itself."),
    ("What is the derivative of x squared?", "The derivative of x squared is 2x."),
    ("What is the integral of 2x?", "The integral of 2x is x squared plus a constant."),
    ("What is the square root of 144?", "The square root of 144 is 12."),
    ("What is seven times eight?", "Seven times eight is 56."),
    ("What is a hash table?", "A hash table maps keys to buckets with a hash function, so lookup takes constant time on average."),
    ("What is a binary search?", "A binary search halves a sorted array at each step, so it takes logarithmic time."),
    ("What is recursion?", "Recursion is when a function calls itself on a smaller problem until a base case."),
    ("What does a compiler do?", "A compiler translates source code into machine code."),
    ("What is an operating system kernel?", "The kernel schedules processes, manages memory and talks to the hardware."),
    ("What is a mutex?", "A mutex is a lock that lets only one thread at a time enter a critical section."),
    ("What is a deadlock?", "A deadlock is when threads wait for locks that the others hold, so none can proceed."),
    ("What is a KV cache?", "A KV cache stores the key and value vectors of past tokens so attention need not recompute them."),
    ("What is quantization?", "Quantization stores numbers with fewer bits, trading precision for memory and bandwidth."),
    ("What is memory bandwidth?", "Memory bandwidth is the number of bytes per second that can be read from memory."),
    ("What is attention in a transformer?", "Attention weighs the values of past tokens by the softmax of query and key dot products."),
    ("What is a mixture of experts?", "A mixture of experts routes each token to a few expert networks chosen by a router."),
    ("What is DNA?", "DNA is a double helix molecule that stores genetic information in four bases."),
    ("What is the powerhouse of the cell?", "The mitochondria are the powerhouse of the cell, producing energy as ATP."),
    ("What organ pumps blood?", "The heart pumps blood through the body."),
    ("What is evolution?", "Evolution is change in inherited traits over generations, driven by natural selection and mutation."),
    ("What causes tides?", "Tides are caused by the gravity of the Moon and the Sun."),
    ("What causes earthquakes?", "Earthquakes are caused by the sudden slip of tectonic plates along a fault."),
    ("What is inflation in economics?", "Inflation is a general rise of prices that reduces the value of money."),
    ("What is supply and demand?", "Supply and demand set the price where the quantity offered equals the quantity wanted."),
    ("When did the Second World War end?", "The Second World War ended in 1945."),
    ("When did the French Revolution begin?", "The French Revolution began in 1789 with the storming of the Bastille."),
    ("When did humans first land on the Moon?", "Humans first landed on the Moon in 1969 with Apollo 11."),
    ("Who was the first president of the United States?", "The first president of the United States was George Washington."),
    ("What is the currency of Japan?", "The currency of Japan is the yen."),
    ("What language is spoken in Brazil?", "The language spoken in Brazil is Portuguese."),
    ("What is the opposite of hot?", "The opposite of hot is cold."),
    ("What color do you get from blue and yellow?", "Blue and yellow make green."),
    ("What is the hardest natural material?", "The hardest natural material is diamond."),
    ("What is the lightest element?", "The lightest element is hydrogen."),
    ("What metal is liquid at room temperature?", "Mercury is liquid at room temperature."),
    ("What is the symbol for gold?", "The symbol for gold is Au."),
    ("How do vaccines work?", "Vaccines train the immune system to recognise a pathogen by showing it a harmless antigen."),
    ("What is a black hole?", "A black hole is a region where gravity is so strong that not even light can escape."),
]
PREFIX = ["", "", "", "Please answer: ", "Question: ", "Tell me. ", "Explain briefly. "]
SUFFIX = ["", "", "", " Answer briefly.", " Keep it short.", " Think first."]

ADJECTIVES = """
    red blue green old new north south east west hidden lower upper small large first second third iron
    silver golden quiet broken royal public private inner outer ancient central distant
""".split()
NOUNS = """
    vault gate archive tower laboratory station garden library bridge harbor engine cellar satellite
    museum office castle tunnel workshop hangar temple reactor kitchen market observatory warehouse
""".split()
WORDS = """
    apple tiger river cloud ember falcon maple comet violet anchor lantern pepper saddle willow copper
    marble orchid raven canyon velvet beacon thistle cobalt jasmine meadow walnut glacier pebble saffron
    tulip
""".split()
THING = ["secret code", "password", "access number", "passphrase", "magic word"]

def value(r):
    """A code to recall: digits, two words or one."""
    kind = r.random()
    if kind < 0.6:
        return "".join(r.choice("0123456789") for _ in range(r.randint(3, 6)))
    if kind < 0.85:
        return r.choice(WORDS) + " " + r.choice(WORDS)
    return r.choice(WORDS)


def needle(r):
    return r.choice(THING), f"{r.choice(ADJECTIVES)} {r.choice(NOUNS)}", value(r)


def needle_sentence(r, thing, place, code):
    fact = f"the {thing} for the {place} is {code}."
    return r.choice([f"T{fact[1:]}", f"T{fact[1:]}", f"Remember that {fact}", f"Note: {fact}"])


def chat(user, assistant):
    return f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n", f"{assistant}<|im_end|>\n"


def fact_sample(r):
    question, answer = r.choice(FACTS)
    return chat(r.choice(PREFIX) + question + r.choice(SUFFIX), answer)


def needle_sample(r, filler_sentences, n_words):
    """A filler text with one planted fact and up to two distractors, then the question about the first."""
    facts = [needle(r) for _ in range(r.choice([1, 1, 1, 2, 3]))]
    seen = set()
    facts = [f for f in facts if f[:2] not in seen and not seen.add(f[:2])]
    sentences, words = [], 0
    while words < n_words:
        sentences.append(r.choice(filler_sentences))
        words += sentences[-1].count(" ") + 1
    for fact in facts:
        sentences.insert(r.randint(0, len(sentences)), needle_sentence(r, *fact))
    thing, place, code = facts[0]
    question = r.choice([f"What is the {thing} for the {place}?", f"What is the {thing} for the {place}?",
                         f"Tell me the {thing} for the {place}."])
    return chat(" ".join(sentences) + " " + question, f"The {thing} for the {place} is {code}.")
