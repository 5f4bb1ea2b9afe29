"""Word lists of the computed topics and of the conversations."""

WORDS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
    "twenty",
]  # fmt: skip
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
]  # fmt: skip
LISTS = {"day": DAYS, "month": MONTHS}
COLOURS = [
    "red", "orange", "yellow", "green", "blue", "purple", "brown", "black", "white", "grey", "pink",
]  # fmt: skip
SEASONS = ["spring", "summer", "autumn", "winter"]
MIXES = {
    "red and yellow": "orange",
    "blue and yellow": "green",
    "red and blue": "purple",
    "black and white": "grey",
    "red and white": "pink",
}
ONSETS = [
    "b", "c", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z", "br",
    "cl", "dr", "fl", "gr", "pl", "st", "tr",
]  # fmt: skip
VOWELS = ["a", "e", "i", "o", "u", "ai", "ea", "ou"]
CODAS = ["", "", "n", "r", "l", "s", "m", "t"]
ENDINGS = ["", "", "ia", "land", "ing", "er", "s", "ed", "ion"]
NAMES = [
    "Anna", "Ben", "Carla", "David", "Emma", "Felix", "Greta", "Hugo", "Ines", "Jonas", "Karin",
    "Leo", "Maria", "Nora", "Oscar", "Paula", "Quentin", "Rosa", "Simon", "Tina", "Uwe", "Vera",
    "Walter", "Xenia", "Yara", "Zoe", "Tom", "Lisa", "Max", "Eva", "Paul", "Mia", "Noah",
]  # fmt: skip
INTRODUCTIONS = [
    "my name is {n}", "i am {n}", "i'm {n}", "call me {n}", "hi, my name is {n}", "hello, i am {n}",
]  # fmt: skip
RECALLS = [
    "what is my name", "what's my name", "do you know my name", "who am i", "tell me my name",
    "do you remember my name", "say my name", "what am i called", "how am i called",
]  # fmt: skip
